/** The file `policies.yaml`: which credentials are rotated when and how, in words that people write. */
import Type from 'typebox'
import { DURATION_PATTERN } from './duration.ts'
import { ON_DEADLINE } from './rotation.ts'
import { Selector } from './selector.ts'

export const POLICY_NAME_PATTERN = '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'
export const DAY_NAMES = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const
export type DayName = (typeof DAY_NAMES)[number]

/** `10%`, `0.5%`. */
export const SHARE_PATTERN = '^(100|[1-9]?[0-9](\\.[0-9]{1,2})?)%$'
/** `100/h`. */
export const RATE_PATTERN = '^[1-9][0-9]{0,6}/[smhd]$'
export const TIME_ZONE_PATTERN = '^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$'
export const FROM_PATTERN = '^([01][0-9]|2[0-3]):[0-5][0-9]$'
export const TO_PATTERN = '^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$'
/** A day, a range of days, or a day of every year. Whether there is such a day is looked at by `checkPolicy`. */
export const DATES_PATTERN = '^([0-9]{4}-[0-9]{2}-[0-9]{2}(/[0-9]{4}-[0-9]{2}-[0-9]{2})?|[0-9]{2}-[0-9]{2})$'

const Duration = (description: string) => Type.String({ pattern: DURATION_PATTERN, maxLength: 40, description })
const Share = (description?: string) =>
  Type.String({ pattern: SHARE_PATTERN, ...(description === undefined ? {} : { description }) })
const Strict = <P extends Type.TProperties>(properties: P, description: string) =>
  Type.Object(properties, { additionalProperties: false, description })
const Dates = (description: string) =>
  Type.Array(Type.String({ pattern: DATES_PATTERN }), { minItems: 1, maxItems: 1_000, uniqueItems: true, description })

export const Blackout = Strict(
  {
    timeZone: Type.String({ pattern: TIME_ZONE_PATTERN, maxLength: 64, description: 'of the IANA database: America/New_York' }),
    days: Type.Optional(
      Type.Array(Type.Enum([...DAY_NAMES]), { minItems: 1, maxItems: 7, uniqueItems: true, description: 'days of the week' }),
    ),
    dates: Type.Optional(Dates('days: 2026-12-31; ranges: 2026-12-20/2027-01-03; days of every year: 12-31')),
    holidays: Type.Optional(Dates('the same; always whole days, whatever from and to say')),
    from: Type.Optional(
      Type.String({ pattern: FROM_PATTERN, description: 'on these days only from this time on: 09:30; midnight unless given' }),
    ),
    to: Type.Optional(
      Type.String({
        pattern: TO_PATTERN,
        description: 'until this time; when it is earlier than from, on the day after; midnight unless given',
      }),
    ),
  },
  'local times in which no rotation is started',
)
export type Blackout = Type.Static<typeof Blackout>

export const Policy = Strict(
  {
    name: Type.String({ pattern: POLICY_NAME_PATTERN, description: 'a name of a–z, 0–9 and dashes' }),
    select: Type.Optional(Selector),
    all: Type.Optional(
      Type.Literal(true, { description: 'in the place of select: every credential that no other policy selects' }),
    ),
    period: Type.Optional(Duration('how old a key may get, its overlap included: 90d unless given, 180d at most')),
    allowLongPeriod: Type.Optional(Type.Boolean({ description: 'allows a period of more than 180d' })),
    expiry: Type.Optional(
      Duration('new keys expire after so long, used or not; no shorter than the period. Without it they do not expire'),
    ),
    overlap: Type.Optional(Duration('how long old and new key are both accepted: 14d unless given')),
    quietPeriod: Type.Optional(Duration('how long the old key must have been unused before it is deactivated: 24h unless given')),
    onDeadline: Type.Optional(
      Type.Enum([...ON_DEADLINE], { description: 'when the overlap ends and the old key is still in use: hold unless given' }),
    ),
    extendBy: Type.Optional(Duration('by how much extend moves the end of the overlap: 7d unless given')),
    reminders: Type.Optional(
      Type.Array(Share(), {
        maxItems: 20,
        uniqueItems: true,
        description: 'parts of the overlap after which a client that does not use its new key is reminded: [50%, 75%, 90%]',
      }),
    ),
    regretWindow: Type.Optional(Duration('how long refusals of the deactivated key are watched: 1h unless given')),
    thresholds: Type.Optional(
      Strict(
        {
          newKeyRefusals: Type.Optional(
            Type.Integer({
              minimum: 0,
              maximum: 1_000_000_000,
              description: 'more during the overlap roll back: 5 unless given',
            }),
          ),
          oldKeyRefusals: Type.Optional(
            Type.Integer({
              minimum: 0,
              maximum: 1_000_000_000,
              description: 'more in the regret window roll back: 10 unless given',
            }),
          ),
        },
        'how many refusals are too many',
      ),
    ),
    receiptWait: Type.Optional(
      Duration('how long a gateway may be missing before the rotation is held: 10m unless given, 12h at most'),
    ),
    delivery: Type.Optional(
      Strict(
        {
          successorByOldKey: Type.Optional(
            Type.Boolean({ description: 'whether a program may fetch the new key by showing the old one: true unless given' }),
          ),
          claimInMessages: Type.Optional(
            Type.Boolean({
              description: 'whether e-mails and Slack messages hold the claim itself: false unless given',
            }),
          ),
        },
        'how the new key comes to the client',
      ),
    ),
    approvals: Type.Optional(
      Type.Enum(['introducing', 'deactivating'], {
        description: 'a rotation that the schedule has started is held before this stage until a person approves',
      }),
    ),
    onLeak: Type.Optional(
      Type.Union([Type.Literal('atOnce'), Type.String({ pattern: DURATION_PATTERN, maxLength: 40 })], {
        description: 'when a key is leaked: atOnce compromises it, a duration rotates it with an overlap of so long',
      }),
    ),
    blackout: Type.Optional(Type.Array(Blackout, { maxItems: 50, description: 'when no rotation is started' })),
    waves: Type.Optional(
      Type.Array(
        Strict(
          {
            size: Type.Union([Type.Integer({ minimum: 1, maximum: 10_000_000 }), Share()], {
              description: 'so many credentials, or such a share of all: 1, 10%; the last wave takes what is left',
            }),
          },
          'a part of the credentials; it begins when all rotations of the one before have ended well',
        ),
        { minItems: 1, maxItems: 20, description: 'first a few, then more: [{size: 1}, {size: 10%}, {size: 100%}]' },
      ),
    ),
    stopAbove: Type.Optional(
      Share('when more than this share of a wave is held or rolled back, nothing more is started: 10% unless given'),
    ),
    concurrency: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 10_000_000,
        description: 'how many rotations of this policy may be open at once, held ones included',
      }),
    ),
    rate: Type.Optional(
      Type.String({
        pattern: RATE_PATTERN,
        description: 'how many rotations are started at most: 100/h, 2/m; twice the mean unless given',
      }),
    ),
  },
  'which credentials are rotated when, and how',
)
export type Policy = Type.Static<typeof Policy>

/** No file has more policies. */
export const MOST_POLICIES = 200

export const PolicyFile = Type.Object(
  {
    policies: Type.Array(Policy, {
      maxItems: MOST_POLICIES,
      description: 'where several select a credential, the most specific one wins, then the one that stands first',
    }),
  },
  { additionalProperties: false },
)
export type PolicyFile = Type.Static<typeof PolicyFile>

/** What decides between policies that select the same credential. */
interface Ranked {
  readonly select?: Selector | undefined
}

/** How much a policy's selector says: a client counts most, then labels, scopes, the environment. */
const specificity = ({ select = {} }: Ranked): readonly number[] => [
  select.client === undefined ? 0 : 1,
  Object.keys(select.labels ?? {}).length,
  select.scope === undefined ? 0 : 1,
  select.environment === undefined ? 0 : 1,
]

/** Policies in the order in which they win: the most specific first; those that are equally specific keep their order. */
export function byPrecedence<P extends Ranked>(policies: readonly P[]): P[] {
  return policies.toSorted((a, b) => {
    const [left, right] = [specificity(a), specificity(b)]
    const differs = left.findIndex((value, i) => value !== right[i])
    return differs === -1 ? 0 : (right[differs] ?? 0) - (left[differs] ?? 0)
  })
}
