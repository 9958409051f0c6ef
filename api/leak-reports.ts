/** Where leaks are reported: by anyone with a token for it, by GitHub, and by GitGuardian. Each is recorded, answered, and then acted on. */
import { LeakReportFields } from '@keyturn/contract'
import type { FastifyRequest, onRequestHookHandler } from 'fastify'
import Type from 'typebox'
import { type RecordedLeak, recordLeaks, type Sighting, toSighting } from '../registry/leak-intake.ts'
import type { Reporter } from '../registry/leaks.ts'
import { gitguardianSightings } from './gitguardian-events.ts'
import { checkGitguardian, checkGithub } from './leak-signatures.ts'
import { bearer, isToken } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, OPERATOR_SECURITY } from './routes.ts'
import { Input, LeakIdSchema, Problems } from './schemas.ts'
import { check } from './validation.ts'

/** Room for 10,000 tokens with an address each. */
const LEAK_BODY_LIMIT = 8 * 1024 * 1024
const MOST_TOKENS = 20_000
/** A larger body is read away before it is refused: who is still sending does not hear an answer. */
const READ_AWAY_BYTES = 64 * 1024 * 1024

const One = Input(LeakReportFields)
const Many = Type.Array(One, { minItems: 1, maxItems: MOST_TOKENS })
const Answer = Type.Object({
  leakId: LeakIdSchema,
  isNew: Type.Boolean({ description: 'this is the first report of the token' }),
  matched: Type.Optional(Type.String({ description: 'what the token is: live, old, dead or unknown; told to operators alone' })),
  status: Type.Optional(Type.String()),
})

/** What GitHub sends; it may come to send more. */
const GithubMatches = Type.Array(
  Type.Object({
    token: Type.String({ minLength: 1, maxLength: 10_000 }),
    type: Type.Optional(Type.String({ maxLength: 200 })),
    url: Type.Optional(Type.String({ maxLength: 10_000 })),
    source: Type.Optional(Type.String({ maxLength: 80 })),
  }),
  { maxItems: MOST_TOKENS },
)
const GithubLabels = Type.Array(
  Type.Object({
    token_hash: Type.String({ description: 'SHA-256 of the token, in hex' }),
    token_type: Type.String(),
    label: Type.Enum(['true_positive', 'false_positive']),
  }),
)

export function leakReportRoutes(api: Api, deps: ApiDeps): void {
  const { leaks } = deps.config
  // Signatures are over the body as it came.
  api.removeAllContentTypeParsers()
  api.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  api.addHook('onRequest', refuseTooLarge)
  const raw = { bodyLimit: LEAK_BODY_LIMIT, validatorCompiler: () => () => true } as const

  api.post(
    '/v1/leaks',
    {
      ...raw,
      onRequest: requireReporter(deps),
      schema: {
        operationId: 'reportLeak',
        summary: 'Report a leaked token, or a list of them',
        description:
          'With `tokenSha256`, or with `token`, which is hashed on arrival and never stored. The same report twice changes nothing.',
        security: [...OPERATOR_SECURITY, { reporter: [] }],
        body: Type.Union([One, Many]),
        response: { 202: Type.Union([Answer, Type.Object({ leaks: Type.Array(Answer) })]), ...Problems },
      },
    },
    async (request, reply) => {
      const given = parseJson(request.body)
      const reports = Array.isArray(given) ? check(Many, given) : [check(One, given)]
      refuseWithoutToken(reports)
      const reporter = isToken(bearer(request) ?? '', deps.config.operatorToken) ? 'operator' : 'reporter'
      const recorded = await take(deps, reports.map(toSighting), reporter)
      const answers = recorded.map(({ leakId, isNew, matched, status }) =>
        reporter === 'operator' ? { leakId, isNew, matched, status } : { leakId, isNew },
      )
      const [only] = answers
      reply.code(202).header('cache-control', 'no-store')
      if (Array.isArray(given) || only === undefined) return { leaks: answers }
      reply.header('location', `/v1/leaks/${only.leakId}`)
      return only
    },
  )

  api.post(
    '/v1/leaks/github',
    {
      ...raw,
      schema: {
        operationId: 'reportLeaksFromGithub',
        summary: "Take a report of GitHub's secret scanning",
        description:
          'Signed by GitHub: `Github-Public-Key-Identifier` and `Github-Public-Key-Signature`. Answered with a label for each token.',
        security: [],
        body: GithubMatches,
        response: { 200: GithubLabels, ...Problems },
      },
    },
    async (request) => {
      if (leaks.githubKeys === undefined)
        throw new ApiError('not-found', "GitHub's reports are not taken here: set KEYTURN_GITHUB_KEYS.")
      await checkGithub(request, bodyOf(request), leaks.githubKeys)
      const matches = check(GithubMatches, parseJson(request.body))
      const sightings = matches.map(({ token, url, source }) =>
        toSighting({
          token,
          source: source === undefined ? 'github' : `github:${source}`,
          ...(url === undefined ? {} : { url: url.slice(0, 2_000) }),
        }),
      )
      const recorded = await take(deps, sightings, 'github')
      return matches.map(({ type = '' }, i) => ({
        token_hash: sightings[i]?.hash.hex ?? '',
        token_type: type,
        label: recorded[i]?.matched === 'unknown' ? ('false_positive' as const) : ('true_positive' as const),
      }))
    },
  )

  api.post(
    '/v1/leaks/gitguardian',
    {
      ...raw,
      schema: {
        operationId: 'reportLeakFromGitguardian',
        summary: 'Take an event of a GitGuardian custom webhook',
        description:
          'Signed by GitGuardian: `Timestamp` and `Gitguardian-Signature`. Events that tell of no leak are answered and left alone.',
        security: [],
        body: Type.Object({ action: Type.Optional(Type.String()) }),
        response: {
          200: Type.Object({ leaks: Type.Array(Type.Object({ leakId: LeakIdSchema, isNew: Type.Boolean() })) }),
          ...Problems,
        },
      },
    },
    async (request) => {
      if (leaks.gitguardianToken === undefined)
        throw new ApiError('not-found', "GitGuardian's reports are not taken here: set KEYTURN_GITGUARDIAN_TOKEN.")
      const body = bodyOf(request)
      checkGitguardian(request, body, leaks.gitguardianToken, deps.clock())
      const recorded = await take(deps, gitguardianSightings(parseJson(body)), 'gitguardian')
      return { leaks: recorded.map(({ leakId, isNew }) => ({ leakId, isNew })) }
    },
  )
}

/** Records, and has answered what needs an answer. Nobody waits for that. */
async function take(
  { db, clock, respond }: ApiDeps,
  sightings: readonly Sighting[],
  reporter: Reporter,
): Promise<RecordedLeak[]> {
  const recorded = await recordLeaks(db, { sightings, reporter, at: clock() })
  respond([...new Set(recorded.filter(({ status }) => status === 'open').map(({ leakId }) => leakId))])
  return recorded
}

/** Lets in whoever may report: operators, and reporters, who may do nothing else. */
function requireReporter({ config }: ApiDeps): onRequestHookHandler {
  const { operatorToken, leaks } = config
  return async (request) => {
    const shown = bearer(request)
    if (shown === undefined) throw new ApiError('reporter-token-required', 'Send "Authorization: Bearer <reporter token>".')
    const known = isToken(shown, operatorToken) || (leaks.reporterToken !== undefined && isToken(shown, leaks.reporterToken))
    if (!known) throw new ApiError('reporter-token-required', 'This is not a token of a reporter or an operator.')
  }
}

async function refuseTooLarge(request: FastifyRequest): Promise<void> {
  const length = Number(request.headers['content-length'] ?? 0)
  if (!(length > LEAK_BODY_LIMIT)) return
  if (length <= READ_AWAY_BYTES) for await (const _ of request.raw);
  throw new ApiError('too-large', `A request body is at most ${LEAK_BODY_LIMIT / 1024} KiB here. Send the tokens in several.`)
}

const bodyOf = (request: FastifyRequest): Buffer => (Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0))

function parseJson(body: unknown): unknown {
  try {
    return JSON.parse((body as Buffer).toString('utf8'))
  } catch {
    // The parser's own words repeat what they stumble over.
    throw new ApiError('not-json', 'The body can not be read as JSON.')
  }
}

function refuseWithoutToken(reports: readonly { token?: string; tokenSha256?: string }[]): void {
  const errors = reports.flatMap(({ token, tokenSha256 }, i) =>
    (token === undefined) === (tokenSha256 === undefined)
      ? [{ path: reports.length === 1 ? '' : `/${i}`, message: 'give one of tokenSha256 and token' }]
      : [],
  )
  if (errors.length > 0) throw new ApiError('invalid-request', 'A report names one token.', errors.slice(0, 20))
}
