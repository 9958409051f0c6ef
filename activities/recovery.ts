import type { CredentialId } from '@keyturn/contract'
import { publishKeys } from '../registry/publishing.ts'
import {
  type Difference,
  fingerprintOf,
  markChecked,
  type Recovered,
  type RecoverInput,
  recoverKey,
  type Settled,
  settleCredential,
} from '../registry/restore.ts'
import { createPublisher } from './kafka.ts'
import { keyMessage } from './propagation.ts'
import { checkRegistry, type GuardOptions } from './registry-guard.ts'

const PAGE = 500

/**
 * Brings a restored registry up to what the keys topic knows, and publishes the result. May be run again when it was broken off.
 * @param input.dryRun only compares
 */
export async function recoverRegistry(
  options: GuardOptions,
  input: RecoverInput & { readonly dryRun: boolean },
): Promise<{ differences: Difference[]; recovered: Recovered[]; settled: Settled[] }> {
  const { db, kafka, topics } = options
  const fingerprint = await fingerprintOf(db)
  const differences = await checkRegistry(options)
  if (input.dryRun || differences.length === 0) return { differences, recovered: [], settled: [] }
  const recovered: Recovered[] = []
  for (const difference of differences) recovered.push(await recoverKey(db, difference, input))
  const settled: Settled[] = []
  for (const credentialId of new Set<CredentialId>(recovered.map((key) => key.credentialId)))
    settled.push(await settleCredential(db, credentialId, input))
  await markChecked(db, fingerprint)
  const publisher = createPublisher(kafka)
  try {
    for (let i = 0; i < recovered.length; i += PAGE) {
      const keyIds = recovered.slice(i, i + PAGE).map(({ keyId }) => keyId)
      await publishKeys(db, keyIds, (rows) =>
        publisher.send(
          topics.keys,
          rows.map((row) => keyMessage('/keyturn/recover', row, new Date())),
        ),
      )
    }
  } finally {
    await publisher.stop()
  }
  return { differences, recovered, settled }
}
