/** Policies: which credentials are rotated when, and how. */
import {
  type Checked,
  checkPolicy,
  checkPolicyFile,
  type FieldFlaw,
  flawText,
  holdsKey,
  MOST_POLICIES,
  POLICY_NAME_PATTERN,
  Policy,
  type PolicyFlaw,
  Timestamp,
  termsOf,
} from '@keyturn/contract'
import type { FastifySchemaCompiler } from 'fastify'
import Type from 'typebox'
import { impossible, warnings } from '../planning/soundness.ts'
import {
  applyPolicies,
  countByPolicy,
  getPolicy,
  listPolicies,
  type PolicyChange,
  removePolicy,
  resumePolicy,
  type StoredPolicy,
} from '../registry/policies.ts'
import { countCredentials } from '../registry/schedule.ts'
import { operator } from './operator.ts'
import { PreviewBody, previewOf } from './policy-preview.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { syncSchedule } from './schedules.ts'
import { Input, Problems, Reason } from './schemas.ts'
import { validatorCompiler, withoutKeysIn } from './validation.ts'

/** A file of policies with a calendar of holidays in each is larger than other bodies. */
const BODY_LIMIT = 1024 * 1024
const PREVIEW_DAYS = 30

const PolicyNameSchema = Type.String({ pattern: POLICY_NAME_PATTERN, description: 'the name of a policy' })
const named = Input({ name: PolicyNameSchema })
const Days = Type.Optional(Type.Integer({ minimum: 1, maximum: 366, description: 'how far to look ahead; 30 unless given' }))
const AsWritten = Type.Record(Type.String(), Type.Unknown(), { description: 'the policy as it was written' })

const PolicyBody = Type.Object({
  name: Type.String(),
  revision: Type.Integer(),
  policy: AsWritten,
  credentials: Type.Integer({ description: 'how many credentials have it' }),
  changedAt: Timestamp,
  changedBy: Type.String(),
  stopped: Type.Optional(
    Type.Object({ at: Timestamp, reason: Type.String() }, { description: 'nothing is started until a person resumes it' }),
  ),
})

const Warnings = Type.Array(Type.String(), { description: 'what the policy promises and may not keep' })
const PolicyWithWarnings = Type.Object({ ...PolicyBody.properties, warnings: Warnings })
const SetPolicy = Type.Object({
  ...PolicyWithWarnings.properties,
  scheduled: Type.Boolean({ description: 'false while Temporal is away: the schedule follows by itself' }),
})

const Change = Type.Object({
  name: Type.String(),
  change: Type.Enum(['created', 'changed', 'unchanged', 'removed']),
  credentials: Type.Integer({ description: 'how many credentials have it now; of a removed one: had' }),
  before: Type.Optional(AsWritten),
  after: Type.Optional(AsWritten),
  warnings: Warnings,
})
const Applied = Type.Object({ changes: Type.Array(Change), dryRun: Type.Boolean(), scheduled: Type.Boolean() })

/** Bodies with policies are checked by the contract, whose messages name the policy and the field. */
const policiesByContract: FastifySchemaCompiler<Type.TSchema> = (route) =>
  route.httpPart === 'body' ? (value: unknown) => ({ value }) : validatorCompiler(route)

export function policyRoutes(api: Api, deps: ApiDeps): void {
  const { db, clock, temporal, config, log } = deps

  const bodyOf = (stored: StoredPolicy, credentials: number) => ({
    name: stored.name,
    revision: stored.revision,
    policy: stored.policy,
    credentials,
    changedAt: stored.changedAt.toISOString(),
    changedBy: stored.changedBy,
    ...given(
      'stopped',
      stored.stopped === undefined ? undefined : { at: stored.stopped.at.toISOString(), reason: stored.stopped.reason },
    ),
  })

  const warningsOf = (policy: Policy, credentials: number): string[] => warnings(termsOf(policy), clock().getTime(), credentials)

  const known = async (name: string): Promise<StoredPolicy> => {
    const stored = await getPolicy(db, name)
    if (stored === undefined)
      throw new ApiError('unknown-policy', `There is no policy ${name}; \`keyturn policy list\` shows all.`)
    return stored
  }

  /** The registry has been changed; the schedules follow, now or when Temporal is back. */
  async function sync(changes: readonly Pick<PolicyChange, 'name' | 'change'>[]): Promise<boolean> {
    try {
      for (const { name, change } of changes) {
        if (change !== 'unchanged') await syncSchedule(temporal, config.taskQueue, { name, removed: change === 'removed' })
      }
      return true
    } catch (error) {
      log.warn({ err: error }, 'the schedules of policies could not be brought up to date; the worker will')
      return false
    }
  }

  function sound<T>(checked: Checked<T>, policiesIn: (value: T) => readonly Policy[], pathOf: (index: number) => string): T {
    if (!checked.ok) throw refusal(checked.flaws)
    const flaws = policiesIn(checked.value).flatMap((policy, i) =>
      [...impossible(termsOf(policy), clock().getTime()), ...strayKey(policy)].map(({ path, message }) => ({
        policy: policy.name,
        path: pathOf(i) + path,
        message,
      })),
    )
    if (flaws.length > 0) throw refusal(flaws)
    return checked.value
  }
  const soundPolicy = (value: unknown): Policy =>
    sound(
      checkPolicy(value),
      (policy) => [policy],
      () => '',
    )

  api.put(
    '/v1/policies/:name',
    {
      bodyLimit: BODY_LIMIT,
      validatorCompiler: policiesByContract,
      schema: {
        operationId: 'setPolicy',
        summary: 'Create or change a policy',
        description: 'Credentials that it selects, and no other policy more specifically, have it at once.',
        security: OPERATOR_SECURITY,
        params: named,
        body: Type.Object(
          { ...Policy.properties, name: Type.Optional(Policy.properties.name) },
          { additionalProperties: false, description: 'the policy; its name may be left out' },
        ),
        response: { 200: SetPolicy, ...Problems },
      },
    },
    async (request) => {
      const { name } = request.params
      const body: unknown = request.body
      const policy = soundPolicy(isObject(body) ? { name, ...body } : body)
      if (policy.name !== name) {
        const message = `must be ${name}, as in the path`
        throw refusal([{ policy: policy.name, path: '/name', message }])
      }
      const by = { at: clock(), actor: operator(request).actor }
      const [change] = await applyPolicies(db, { policies: [policy], order: 'keep', prune: false, ...by })
      const credentials = change?.credentials ?? 0
      const scheduled = await sync(change === undefined ? [] : [change])
      return { ...bodyOf(await known(name), credentials), warnings: warningsOf(policy, credentials), scheduled }
    },
  )

  api.put(
    '/v1/policies',
    {
      bodyLimit: BODY_LIMIT,
      validatorCompiler: policiesByContract,
      schema: {
        operationId: 'applyPolicies',
        summary: 'Apply a file of policies: all of them or none',
        security: OPERATOR_SECURITY,
        body: Input({
          policies: Type.Array(Policy, { maxItems: MOST_POLICIES, description: 'those of the file, in its order' }),
          prune: Type.Optional(Type.Boolean({ description: 'remove the policies that are not in the file' })),
          dryRun: Type.Optional(Type.Boolean({ description: 'answer what would change, and change nothing' })),
        }),
        response: { 200: Applied, ...Problems },
      },
    },
    async (request) => {
      const { prune = false, dryRun = false, ...file } = applied(request.body)
      const policies = sound(
        checkPolicyFile(file),
        (list) => list,
        (i) => `/policies/${i}`,
      )
      const by = { at: clock(), actor: operator(request).actor }
      const changes = await applyPolicies(db, { policies, order: 'file', prune, dryRun, ...by })
      return {
        changes: changes.map(({ before, after, ...change }) => ({
          ...change,
          ...given('before', before),
          ...given('after', after),
          warnings: after === undefined ? [] : warningsOf(after, change.credentials),
        })),
        dryRun,
        scheduled: dryRun ? false : await sync(changes),
      }
    },
  )

  api.get(
    '/v1/policies',
    {
      schema: {
        operationId: 'listPolicies',
        summary: 'List the policies, in the order in which they stand',
        security: OPERATOR_SECURITY,
        response: { 200: Type.Object({ policies: Type.Array(PolicyBody) }), ...Problems },
      },
    },
    async () => {
      const [policies, counts] = [await listPolicies(db), await countByPolicy(db)]
      return { policies: policies.map((stored) => bodyOf(stored, counts.get(stored.name) ?? 0)) }
    },
  )

  api.get(
    '/v1/policies/:name',
    {
      schema: {
        operationId: 'getPolicy',
        summary: 'Read a policy',
        security: OPERATOR_SECURITY,
        params: named,
        response: { 200: PolicyWithWarnings, ...Problems },
      },
    },
    async (request) => {
      const stored = await known(request.params.name)
      const credentials = await countCredentials(db, stored.name)
      return { ...bodyOf(stored, credentials), warnings: warningsOf(stored.policy, credentials) }
    },
  )

  api.delete(
    '/v1/policies/:name',
    {
      schema: {
        operationId: 'removePolicy',
        summary: 'Remove a policy',
        description: 'Rotations that it has started go on. Its credentials get the policy that selects them next.',
        security: OPERATOR_SECURITY,
        params: named,
        response: {
          200: Type.Object({
            name: Type.String(),
            removed: Type.Literal(true),
            credentials: Type.Integer(),
            scheduled: Type.Boolean(),
          }),
          ...Problems,
        },
      },
    },
    async (request) => {
      const { name } = request.params
      const removed = await removePolicy(db, { name, at: clock(), actor: operator(request).actor })
      return { name, removed: true as const, credentials: removed.credentials, scheduled: await sync([removed]) }
    },
  )

  api.post(
    '/v1/policies/:name/resume',
    {
      schema: {
        operationId: 'resumePolicy',
        summary: 'Let a policy go on that was stopped because too much of a wave went wrong',
        security: OPERATOR_SECURITY,
        params: named,
        body: Input({ reason: Reason }),
        response: { 200: PolicyBody, ...Problems },
      },
    },
    async (request) => {
      const { name } = request.params
      await resumePolicy(db, { name, reason: request.body.reason, at: clock(), actor: operator(request).actor })
      return bodyOf(await known(name), await countCredentials(db, name))
    },
  )

  api.get(
    '/v1/policies/:name/preview',
    {
      schema: {
        operationId: 'previewPolicy',
        summary: 'What a policy will do in the days to come',
        security: OPERATOR_SECURITY,
        params: named,
        querystring: Input({ days: Days }),
        response: { 200: PreviewBody, ...Problems },
      },
    },
    async (request) => {
      const { policy } = await known(request.params.name)
      return previewOf(deps, policy, request.query.days ?? PREVIEW_DAYS)
    },
  )

  api.post(
    '/v1/policies/preview',
    {
      bodyLimit: BODY_LIMIT,
      validatorCompiler: policiesByContract,
      schema: {
        operationId: 'previewUnsavedPolicy',
        summary: 'What a policy would do in the days to come, if it were applied now',
        security: OPERATOR_SECURITY,
        body: Input({ policy: Policy, days: Days }),
        response: { 200: PreviewBody, ...Problems },
      },
    },
    async (request) => {
      const { policy, days } = previewed(request.body)
      return previewOf(deps, soundPolicy(policy), days ?? PREVIEW_DAYS)
    },
  )
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Policies are kept, and others read them (G5). */
const strayKey = (policy: Policy): FieldFlaw[] =>
  holdsKey(JSON.stringify(policy)) ? [{ path: '', message: 'holds something that looks like a key: leave it out' }] : []

function refusal(found: readonly PolicyFlaw[]): ApiError {
  const flaws = found.map((flaw) => ({ ...flaw, ...withoutKeysIn(flaw) }))
  const [first, ...more] = flaws.map(flawText)
  const detail = more.length === 0 ? `${first}.` : `${first}; and ${more.length} more.`
  return new ApiError(
    'invalid-policy',
    detail,
    flaws.map(({ path, message }) => ({ path, message })),
  )
}

/** What stands beside the policies in a body; the policies themselves are the contract's to check. */
function applied(body: unknown): { policies?: unknown; prune?: boolean; dryRun?: boolean } {
  return checkedBeside(
    body,
    Input({
      policies: Type.Optional(Type.Unknown()),
      prune: Type.Optional(Type.Boolean()),
      dryRun: Type.Optional(Type.Boolean()),
    }),
  )
}

function previewed(body: unknown): { policy?: unknown; days?: number } {
  return checkedBeside(body, Input({ policy: Type.Optional(Type.Unknown()), days: Days }))
}

function checkedBeside<T extends Type.TSchema>(body: unknown, schema: T): Type.Static<T> {
  const validate = validatorCompiler({ schema, method: 'PUT', url: '', httpPart: 'body' })
  const result = validate(body) as { value?: unknown; error?: Error }
  if (result.error !== undefined) throw result.error
  return result.value as Type.Static<T>
}
