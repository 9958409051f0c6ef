/** What goes in and comes out, as JSON Schema. Inputs refuse unknown fields. */
import {
  Allow,
  CHANNELS,
  CLAIM_JWE,
  CLIENT_ID_PATTERN,
  type ClientId,
  CREDENTIAL_ID_PATTERN,
  type CredentialId,
  EnvironmentSchema,
  GATEWAY_ID_PATTERN,
  HELD_FOR,
  KEY_KINDS,
  KEY_STATES,
  LANGUAGES,
  Labels,
  LEAK_ID_PATTERN,
  LEAK_MATCHES,
  LEAK_RESPONSES,
  LEAK_STATUSES,
  type LeakId,
  ON_DEADLINE,
  PROBLEM_MEDIA_TYPE,
  PROBLEMS,
  type ProblemCode,
  ROLLOVER_ID_PATTERN,
  ROLLOVER_STAGES,
  ROTATION_ID_PATTERN,
  ROTATION_STAGES,
  type RolloverId,
  type RotationId,
  ScopePattern,
  ScopeSchema,
  Selector,
  TELL,
  TIME_OF_DAY_PATTERN,
  Timestamp,
  TRIGGERS,
} from '@keyturn/contract'
import Type, { type TProperties } from 'typebox'
import type { Contact as RegisteredContact } from '../registry/contacts.ts'
import { DeliveryBody } from './delivery-schemas.ts'

export const Input = <P extends TProperties>(properties: P) => Type.Object(properties, { additionalProperties: false })

export const Name = Type.String({
  minLength: 1,
  maxLength: 100,
  pattern: '^[^\\s\\p{C}](?:[^\\p{C}]*[^\\s\\p{C}])?$',
  description: 'a name of 1 to 100 printable characters without spaces around it',
})
/** PostgreSQL stores neither NUL nor half a surrogate pair: what holds one would be tried again for ever. */
export const Reason = Type.String({
  minLength: 1,
  maxLength: 500,
  pattern: '^(?=[\\s\\S]*\\S)[^\\0\\p{Cs}]*$',
  description: 'why, for the audit log: 1 to 500 characters, not all of them spaces, and no NUL',
})
export const Duration = (description: string) =>
  Type.String({
    minLength: 1,
    maxLength: 40,
    description: `${description}; 14d, 1h30m, 90s or ISO 8601`,
    examples: ['14d', 'PT90S'],
  })

export const ClientIdSchema = Type.Unsafe<ClientId>(
  Type.String({ pattern: CLIENT_ID_PATTERN, description: 'a client id: cli_…' }),
)
export const CredentialIdSchema = Type.Unsafe<CredentialId>(
  Type.String({ pattern: CREDENTIAL_ID_PATTERN, description: 'a credential id: crd_…' }),
)
export const RotationIdSchema = Type.Unsafe<RotationId>(
  Type.String({ pattern: ROTATION_ID_PATTERN, description: 'a rotation id: rot_…' }),
)
export const LeakIdSchema = Type.Unsafe<LeakId>(Type.String({ pattern: LEAK_ID_PATTERN, description: 'a leak id: leak_…' }))
export const RolloverIdSchema = Type.Unsafe<RolloverId>(
  Type.String({ pattern: ROLLOVER_ID_PATTERN, description: 'a rollover id: rol_…' }),
)
export const GatewayIdSchema = Type.String({ pattern: GATEWAY_ID_PATTERN, description: 'a gateway id' })

export const ProblemSchema = Type.Object({
  type: Type.String(),
  title: Type.String(),
  status: Type.Integer(),
  code: Type.Enum(Object.keys(PROBLEMS) as ProblemCode[], { description: 'stable; programs decide by it' }),
  detail: Type.Optional(Type.String({ description: 'for a person' })),
  errors: Type.Optional(
    Type.Array(Type.Object({ path: Type.String({ description: 'JSON Pointer (RFC 6901)' }), message: Type.String() })),
  ),
})

const problems = { description: 'A problem document (RFC 9457)', content: { [PROBLEM_MEDIA_TYPE]: { schema: ProblemSchema } } }
/** The error answers of every route. */
export const Problems = { '4xx': problems, '5xx': problems } as const

const ContactUrl = Type.String({ maxLength: 2000, pattern: '^https?://[^\\s\\p{C}]+$', description: 'an http or https URL' })
const contactKinds = {
  webhook: { channel: Type.Literal('webhook'), url: ContactUrl },
  email: { channel: Type.Literal('email'), address: Type.String({ minLength: 3, maxLength: 400 }) },
  slack: { channel: Type.Literal('slack'), url: ContactUrl },
}
/** A discriminated union would name no path in its errors: what belongs to which channel, the routes say. */
export const Contact = Type.Unsafe<RegisteredContact>(
  Type.Object(
    {
      channel: Type.Enum([...CHANNELS], { description: 'webhook and slack have a url, email has an address' }),
      url: Type.Optional(ContactUrl),
      address: Type.Optional(Type.String({ minLength: 3, maxLength: 400, description: 'an e-mail address' })),
    },
    { additionalProperties: false },
  ),
)

export const Language = Type.Enum([...LANGUAGES], { description: 'in which people are written to; en unless given' })
export const TimeZone = Type.String({
  minLength: 1,
  maxLength: 64,
  description: 'as the IANA names it: Europe/Berlin; UTC unless given. Times in messages, and quiet hours, are of there',
})
const TimeOfDay = Type.String({ pattern: TIME_OF_DAY_PATTERN, description: 'a time of the day like 22:00' })
export const QuietHours = Type.Object(
  { from: TimeOfDay, to: TimeOfDay },
  { additionalProperties: false, description: 'when reminders wait; what is urgent does not' },
)
export const Tell = Type.Enum([...TELL], {
  description:
    'first: the first contact that can be reached; all: every one. What is urgent goes to every one. first unless given',
})

const contactState = {
  contactId: Type.String(),
  failing: Type.Optional(
    Type.Object(
      { messages: Type.Integer(), since: Timestamp, why: Type.String() },
      { description: 'messages in a row that were given up' },
    ),
  ),
  disabledAt: Type.Optional(Type.String({ description: 'nothing is sent there until the contacts are given anew' })),
}
export const ClientBody = Type.Object({
  clientId: ClientIdSchema,
  name: Type.String(),
  contacts: Type.Array(
    Type.Union([
      Type.Object({ ...contactKinds.webhook, ...contactState }),
      Type.Object({ ...contactKinds.email, ...contactState }),
      Type.Object({ ...contactKinds.slack, ...contactState }),
    ]),
  ),
  language: Language,
  timeZone: Type.String(),
  quietHours: Type.Optional(QuietHours),
  tell: Tell,
  createdAt: Timestamp,
})

export const StragglerSchema = Type.Object({
  address: Type.String(),
  userAgent: Type.String(),
  count: Type.Integer(),
  lastAt: Timestamp,
})

export const Scopes = Type.Array(
  Type.String({ pattern: ScopePattern, maxLength: 100, description: 'a scope like orders:read' }),
  { maxItems: 100, uniqueItems: true },
)

/** How the keys of a credential are shown. */
export const Kind = Type.Enum([...KEY_KINDS], {
  description:
    'bearer: the token is sent; hmac-sha256: requests are signed with it; ed25519: they are signed with a key that the client has made',
})
export const CredentialBody = Type.Object({
  credentialId: CredentialIdSchema,
  clientId: ClientIdSchema,
  name: Type.String(),
  environment: EnvironmentSchema,
  scopes: Type.Array(ScopeSchema),
  allow: Type.Optional(Allow),
  labels: Labels,
  kind: Kind,
  delivery: DeliveryBody,
  createdAt: Timestamp,
  policy: Type.Optional(Type.String({ description: 'the name of its policy' })),
  rotationId: Type.Optional(RotationIdSchema),
  keys: Type.Array(
    Type.Object({
      keyId: Type.String(),
      version: Type.Integer(),
      state: Type.Enum([...KEY_STATES]),
      standing: Type.Enum(['current', 'successor', 'retired']),
      notBefore: Timestamp,
      expiresAt: Type.Optional(Timestamp),
      sunsetAt: Type.Optional(Timestamp),
      lastUsedAt: Type.Optional(Timestamp),
      publicKey: Type.Optional(Type.String({ description: 'of an ed25519 key, once it is enrolled: 32 bytes in base64' })),
    }),
  ),
  stragglers: Type.Array(StragglerSchema, { description: 'who still uses the old key of the running rotation' }),
})

export const TimelineSchema = Type.Array(
  Type.Object({ stage: Type.Enum([...ROTATION_STAGES]), at: Timestamp, reason: Type.Optional(Type.String()) }),
)

const GatewayReceipts = (from: string) =>
  Type.Array(
    Type.Object({
      gatewayId: Type.String(),
      appliedAt: Timestamp,
      ms: Type.Number({ description: `from ${from} to appliedAt` }),
    }),
  )

export const ReceiptSchema = Type.Object({
  keyId: Type.String(),
  event: Type.String(),
  revision: Type.Integer(),
  publishedAt: Timestamp,
  gateways: GatewayReceipts('publishedAt'),
  unconfirmed: Type.Array(Type.String()),
})

export const EvidenceSchema = Type.Object({
  completeThrough: Type.Optional(Timestamp),
  oldKeyLastUsedAt: Type.Optional(Timestamp),
  newKeyFirstUsedAt: Type.Optional(Timestamp),
  newKeyLastUsedAt: Type.Optional(Timestamp),
  newKeyRefusals: Type.Integer(),
  oldKeyRefusals: Type.Integer(),
  silentGateways: Type.Array(Type.String()),
  usageLostAt: Type.Optional(Timestamp),
  stragglers: Type.Array(StragglerSchema),
  awaitsEnrolment: Type.Optional(
    Type.Literal(true, {
      description: 'the client has not enrolled the public key of its new key: only the old one is accepted',
    }),
  ),
  doneAt: Type.Optional(Timestamp),
  sufficient: Type.Boolean(),
})

/** Its `doneAt` is a forecast until all have moved. */
export const SwitchoverSchema = Type.Object({
  programs: Type.Array(
    Type.Object({
      userAgent: Type.String(),
      addresses: Type.String({ description: 'an address, or a block of them' }),
      movedAt: Type.Optional(Timestamp),
      oldLastAt: Type.Optional(Timestamp),
      newFirstAt: Type.Optional(Timestamp),
    }),
  ),
  moved: Type.Integer(),
  total: Type.Integer(),
  perHour: Type.Optional(Type.Number({ description: 'how many move in an hour, since the client was told' })),
  doneAt: Type.Optional(Timestamp),
})

const summary = {
  rotationId: RotationIdSchema,
  credentialId: CredentialIdSchema,
  clientId: ClientIdSchema,
  trigger: Type.Enum([...TRIGGERS]),
  reason: Type.String(),
  stage: Type.Enum([...ROTATION_STAGES]),
  heldFor: Type.Optional(Type.Enum([...HELD_FOR])),
  deadline: Type.Optional(Timestamp),
  oldKeyId: Type.Optional(Type.String()),
  newKeyId: Type.Optional(Type.String()),
  openedAt: Timestamp,
  endedAt: Type.Optional(Timestamp),
}

export const RotationSummary = Type.Object(summary)

export const RotationBody = Type.Object({
  ...summary,
  environment: EnvironmentSchema,
  unconfirmed: Type.Array(Type.String(), { description: 'the gateways that a held rotation waits for' }),
  policy: Type.Object({
    overlap: Type.String(),
    quietPeriod: Type.String(),
    onDeadline: Type.Enum([...ON_DEADLINE]),
    extendBy: Type.String(),
    regretWindow: Type.String(),
    receiptWait: Type.String(),
    newKeyRefusals: Type.Integer(),
    oldKeyRefusals: Type.Integer(),
    successorByOldKey: Type.Boolean(),
    claimInMessages: Type.Optional(Type.Boolean()),
    reminders: Type.Array(Type.String(), { description: 'parts of the overlap' }),
    name: Type.Optional(Type.String({ description: 'the policy that this comes from' })),
    expiry: Type.Optional(Type.String()),
    approvals: Type.Optional(Type.Enum(['introducing', 'deactivating'])),
    grace: Type.Optional(Type.String()),
  }),
  timeline: TimelineSchema,
  evidence: EvidenceSchema,
  switchover: Type.Optional(SwitchoverSchema),
  receipts: Type.Array(ReceiptSchema),
})

export const ProgressBody = Type.Object({
  rotationId: RotationIdSchema,
  credentialId: CredentialIdSchema,
  trigger: Type.Enum([...TRIGGERS]),
  stage: Type.Enum([...ROTATION_STAGES]),
  timeline: TimelineSchema,
  oldKeyId: Type.Optional(Type.String()),
  newKeyId: Type.Optional(Type.String()),
  deadline: Type.Optional(Timestamp),
  heldFor: Type.Optional(Type.Enum([...HELD_FOR])),
  unconfirmed: Type.Array(Type.String()),
})

export const PublicKeyInput = Type.String({
  maxLength: 1_000,
  description: 'an Ed25519 public key: 32 bytes in base64, the x of a JSON Web Key, or PEM (BEGIN PUBLIC KEY)',
})

export const HandedOut = Type.Object({
  token: Type.Optional(
    Type.String({
      description:
        'the new key; it is shown this once. Absent where the client has enrolled its public key, or has named a recipient',
    }),
  ),
  jwe: Type.Optional(
    Type.String({
      description: `the new key, encrypted to the recipient: a compact JWE (RFC 7516), ${CLAIM_JWE.alg} and ${CLAIM_JWE.enc}`,
    }),
  ),
  keyId: Type.String(),
  sunsetAt: Type.Optional(Type.String({ format: 'date-time', description: 'when the old key may stop working' })),
})

const leak = {
  leakId: LeakIdSchema,
  matched: Type.Enum([...LEAK_MATCHES], { description: 'what the token is: a live key, an old one, a dead one, none of ours' }),
  status: Type.Enum([...LEAK_STATUSES]),
  sightings: Type.Integer({ description: 'how often it was found: by whom, or where, differs' }),
  reportedAt: Timestamp,
  tokenSha256: Type.Optional(Type.String({ description: 'in hex' })),
  hmslHash: Type.Optional(Type.String({ description: "GitGuardian's hash of a token that is none of ours" })),
  keyId: Type.Optional(Type.String()),
  credentialId: Type.Optional(CredentialIdSchema),
  response: Type.Optional(Type.Enum([...LEAK_RESPONSES])),
  rotationId: Type.Optional(RotationIdSchema),
  containedAt: Type.Optional(Timestamp),
  closedAt: Type.Optional(Timestamp),
}
export const LeakSummary = Type.Object(leak)

const source = {
  source: Type.String(),
  url: Type.String(),
  reporter: Type.String({ description: 'through whom it came' }),
  foundAt: Type.Optional(Timestamp),
  firstAt: Timestamp,
  times: Type.Integer(),
}
export const LeakBody = Type.Object({ ...leak, sources: Type.Array(Type.Object({ ...source, lastAt: Timestamp })) })

const UsedFrom = Type.Object({ address: Type.String(), userAgent: Type.String(), count: Type.Integer(), lastAt: Timestamp })

export const IncidentBody = Type.Object({
  leakId: LeakIdSchema,
  status: Type.Enum([...LEAK_STATUSES]),
  matched: Type.Enum([...LEAK_MATCHES]),
  reportedAt: Timestamp,
  response: Type.Optional(Type.Enum([...LEAK_RESPONSES])),
  containedAt: Type.Optional(Timestamp),
  closedAt: Type.Optional(Timestamp),
  key: Type.Optional(Type.Object({ keyId: Type.String(), version: Type.Integer(), state: Type.Enum([...KEY_STATES]) })),
  credential: Type.Optional(
    Type.Object({
      credentialId: CredentialIdSchema,
      name: Type.String(),
      environment: EnvironmentSchema,
      scopes: Type.Array(Type.String()),
    }),
  ),
  client: Type.Optional(Type.Object({ clientId: ClientIdSchema, name: Type.String() })),
  rotationId: Type.Optional(RotationIdSchema),
  newKey: Type.Optional(Type.Object({ keyId: Type.String(), version: Type.Integer(), firstUsedAt: Type.Optional(Timestamp) })),
  sources: Type.Array(Type.Object(source)),
  timeline: Type.Array(Type.Object({ at: Timestamp, what: Type.String() })),
  told: Type.Array(Type.Object({ at: Timestamp, message: Type.String(), to: Type.Array(Type.String()) })),
  refusals: Type.Array(Type.Object({ gatewayId: Type.String(), refusedAt: Timestamp, ms: Type.Number() })),
  unconfirmed: Type.Array(Type.String()),
  usage: Type.Optional(
    Type.Object({
      requests: Type.Integer({ description: 'served since the report' }),
      refused: Type.Integer(),
      lastAcceptedAt: Type.Optional(Timestamp),
      knownThrough: Type.Optional(Timestamp),
      newSources: Type.Array(UsedFrom, { description: 'not seen with this key before' }),
      knownSources: Type.Array(UsedFrom),
      sourcesComplete: Type.Boolean(),
    }),
  ),
})

export const RolloverPreviewBody = Type.Object({
  credentials: Type.Integer(),
  keys: Type.Integer({ description: 'how many would die' }),
  clients: Type.Integer(),
  environments: Type.Record(Type.String(), Type.Integer(), { description: 'credentials in each' }),
  joined: Type.Integer({ description: 'credentials for which another rollover issues new keys: nothing of theirs dies again' }),
})

const rollover = {
  rolloverId: RolloverIdSchema,
  selector: Selector,
  credentialId: Type.Optional(CredentialIdSchema),
  reason: Type.String(),
  stage: Type.Enum([...ROLLOVER_STAGES]),
  unconfirmed: Type.Array(Type.String(), { description: 'the gateways that have not said that they refuse all its keys' }),
  openedAt: Timestamp,
  endedAt: Type.Optional(Timestamp),
}

export const RolloverSummary = Type.Object(rollover)

export const RolloverBody = Type.Object({
  ...rollover,
  actor: Type.String(),
  counts: Type.Object({
    selected: Type.Integer({ description: 'credentials' }),
    joined: Type.Integer({ description: 'of these, those that another rollover had killed and issues new keys for' }),
    killed: Type.Integer({ description: 'keys' }),
    confirmed: Type.Integer({ description: 'of these, those that every live gateway refuses' }),
    successors: Type.Integer({ description: 'credentials that have a new key' }),
    delivered: Type.Integer({ description: 'credentials whose new key is everywhere, and whose client has been told' }),
    failed: Type.Integer(),
  }),
  receipts: Type.Array(
    Type.Object({
      event: Type.String(),
      keys: Type.Integer(),
      killedAt: Timestamp,
      gateways: GatewayReceipts('killedAt'),
      unconfirmed: Type.Array(Type.String()),
    }),
    { description: 'one for all keys, once the gateways have been asked' },
  ),
  remainder: Type.Array(
    Type.Object({ credentialId: CredentialIdSchema, rotationId: Type.Optional(RotationIdSchema), why: Type.String() }),
    { description: 'the first hundred credentials that it brings no new key: failed, or cancelled before their turn' },
  ),
})
