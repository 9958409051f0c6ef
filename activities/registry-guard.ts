/**
 * Keeps a registry that is older than the keys topic from publishing: a backup that was restored, or a standby that had not caught up,
 * takes keys for accepted that have been revoked since.
 */
import { decodeKeyEvent, type KeyId, type TopicNames } from '@keyturn/contract'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import { RegistryError } from '../registry/errors.ts'
import {
  compareWithTopic,
  type Difference,
  fingerprintOf,
  isChecked,
  markChecked,
  type PublishedKey,
} from '../registry/restore.ts'
import type { ControlKafka } from './kafka.ts'
import { readTopicOnce } from './topic-reading.ts'

/** A registry that was found to be behind is not compared anew for every key that waits. */
const ASK_AGAIN_MS = 10_000

export interface GuardOptions {
  readonly db: Database
  readonly kafka: ControlKafka
  readonly topics: TopicNames
  readonly log: Logger
}

export interface RegistryGuard {
  /** Does what publishes; compares the registry with the topic before, when that has not been done since its server started. */
  run<T>(publish: () => Promise<T>): Promise<T>
  /**
   * Compares now, unless that has been done.
   * @throws RegistryError registry-restored
   */
  ensure(): Promise<void>
  /** The same in the background, so that an operator hears of it at the start. */
  checkSoon(): void
}

export function createRegistryGuard(options: GuardOptions): RegistryGuard {
  const { db, log } = options
  let checking: Promise<Difference[]> | undefined
  let behindUntil = 0
  const check = async (): Promise<void> => {
    if (performance.now() > behindUntil) {
      checking ??= checkRegistry(options).finally(() => {
        checking = undefined
      })
      const differences = await checking
      if (differences.length === 0) return
      behindUntil = performance.now() + ASK_AGAIN_MS
      log.error({ ...countsOf(differences) }, `REGISTRY RESTORED: ${RESTORED}`)
    }
    throw new RegistryError('registry-restored', RESTORED)
  }
  const ensure = async (): Promise<void> => {
    if (!(await isChecked(db))) await check()
  }
  return {
    ensure,
    async run(publish) {
      try {
        return await publish()
      } catch (error) {
        if (!(error instanceof RegistryError) || error.code !== 'registry-restored') throw error
        await check()
        return publish()
      }
    },
    checkSoon() {
      ensure().catch((error: unknown) => log.warn({ err: error }, 'the registry is not compared with the keys topic yet'))
    },
  }
}

const RESTORED =
  'the keys topic knows changes that the registry does not: it was restored from a backup, and publishes nothing. Run `keyturn recover`'

/** How many keys differ, and in which way. */
export const countsOf = (differences: readonly Difference[]) => ({
  behind: differences.filter(({ kind }) => kind !== 'unknown').length,
  unknown: differences.filter(({ kind }) => kind === 'unknown').length,
})

/** Compares the registry with the topic. When it is not behind, it may publish from now on. */
export async function checkRegistry({ db, kafka, topics }: GuardOptions): Promise<Difference[]> {
  const fingerprint = await fingerprintOf(db)
  const differences = await compareWithTopic(db, await readPublished(kafka, topics.keys))
  if (differences.length === 0) await markChecked(db, fingerprint)
  return differences
}

/** The last that the topic says of each key. What is no key event is passed over, as gateways do. */
async function readPublished(kafka: ControlKafka, topic: string): Promise<PublishedKey[]> {
  const published = new Map<KeyId, PublishedKey>()
  await readTopicOnce(kafka, topic, ({ key, value }) => {
    const keyId = (key?.toString('utf8') ?? '') as KeyId
    if (value === null) published.set(keyId, { keyId, event: 'keyturn.key.destroyed' })
    else {
      const decoded = decodeKeyEvent(value)
      if (!decoded.ok || decoded.event.data.keyId !== keyId) return
      const { type: event, data: record } = decoded.event
      // A replayed event is older than what it follows; the highest revision wins, as at the gateways.
      if ((published.get(keyId)?.record?.revision ?? 0) < record.revision) published.set(keyId, { keyId, event, record })
    }
  })
  return [...published.values()]
}
