/** Made-up facts, to see what a message looks like. */
import type { ClientId, CredentialId, KeyId, Language, LeakId, NotificationKind, RotationId } from '@keyturn/contract'
import { DEFAULT_POLICY } from '@keyturn/contract/rotation'
import { CLAIM_NOT_SHOWN, type Facts } from './facts.ts'

const DAY = 86_400_000
/** How much of the time to switch over has passed when it is sent. */
const PASSED: Readonly<Partial<Record<NotificationKind, number>>> = { reminder: 0.75, 'deadline-near': 0.95 }
const DIES_LATER: readonly NotificationKind[] = ['introduced', 'reminder', 'deadline-near', 'leak']

export interface SampleOptions {
  readonly at: Date
  readonly language?: Language
  readonly timeZone?: string
  readonly userAgent?: string
}

export function sampleFacts(
  message: NotificationKind,
  { at, language = 'en', timeZone = 'UTC', userAgent = 'acme-importer/2.4' }: SampleOptions,
): Facts {
  const clientId = 'cli_Sample0000000000' as ClientId
  const credentialId = 'crd_Sample0000000000' as CredentialId
  const rotationId = 'rot_Sample0000000000' as RotationId
  const createdAt = new Date(at.getTime() - 90 * DAY)
  const deadline = new Date(at.getTime() + (1 - (PASSED[message] ?? 0)) * DEFAULT_POLICY.overlapMs)
  const whose = { clientId, credentialId, environment: 'prod' as const, createdAt, scopes: ['orders:read'] }
  const key = {
    ...whose,
    revision: 1,
    publishedRevision: 1,
    event: 'keyturn.key.introduced' as const,
    verifier: { kind: 'bearer' as const, sha256: '' },
    notBefore: createdAt,
  }
  const lives = DIES_LATER.includes(message)
  const oldKey: Facts['oldKey'] = {
    ...key,
    keyId: 'SampleOldKey0000' as KeyId,
    version: 1,
    state: lives || message === 'rolled-back' ? 'active' : message === 'deactivated' ? 'deactivated' : 'compromised',
    standing: 'current',
    ...(lives ? { sunsetAt: deadline } : {}),
  }
  return {
    message,
    at,
    client: { clientId, name: 'Acme', contacts: [], language, timeZone, tell: 'first', createdAt },
    credential: { ...whose, name: 'acme-orders', labels: {}, kind: 'bearer', delivery: { method: 'claim' } },
    leaks:
      message === 'leak'
        ? [
            {
              leakId: 'leak_Sample000000000' as LeakId,
              keyId: oldKey.keyId,
              reportedAt: at,
              response: null,
              sources: [{ source: 'github', url: 'https://github.com/acme/importer/blob/main/.env' }],
            },
          ]
        : [],
    ...(message === 'second-claim'
      ? {}
      : {
          rotation: {
            ...whose,
            rotationId,
            trigger: 'manual',
            reason: 'sample',
            stage: 'monitoring',
            policy: DEFAULT_POLICY,
            unconfirmed: [],
            openedAt: at,
            timeline: [],
            receipts: [],
            ...(lives ? { deadline } : {}),
          },
          oldKey,
          newKey: { ...key, keyId: 'SampleNewKey0000' as KeyId, version: 2, state: 'active', standing: 'successor' },
          ...(lives || message === 'emergency' ? { claimCode: CLAIM_NOT_SHOWN } : {}),
          ...(lives && message !== 'leak' ? { byOldKey: 'sent' as const } : {}),
          switchover: {
            programs: [],
            moved: message === 'deadline-near' ? 3 : 0,
            total: 5,
            ...(message === 'deadline-near' ? { doneAt: new Date(at.getTime() + 2 * DAY).toISOString() } : {}),
          },
          evidence: {
            newKeyRefusals: 0,
            oldKeyRefusals: 0,
            silentGateways: [],
            sufficient: false,
            stragglers: [
              {
                address: '192.0.2.17',
                userAgent: 'acme-importer/2.4',
                count: 240,
                lastAt: new Date(at.getTime() - 120_000).toISOString(),
              },
              { address: '198.51.100.4', userAgent, count: 3, lastAt: new Date(at.getTime() - 3_600_000).toISOString() },
            ],
          },
        }),
  }
}
