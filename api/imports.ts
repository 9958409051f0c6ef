/** Keys from elsewhere, in bulk: one JSON object a line. A request is done as a whole, or not at all. */
import { isUtf8 } from 'node:buffer'
import {
  checkImportedKey,
  type ImportedKey,
  type KeyId,
  MOST_IMPORTED_AT_ONCE,
  MOST_IMPORTED_BYTES,
  NDJSON_MEDIA_TYPE,
} from '@keyturn/contract'
import type { FastifyBaseLogger } from 'fastify'
import Type from 'typebox'
import { importKeys } from '../registry/imports.ts'
import { withinTime } from './dependencies.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems } from './schemas.ts'

/** How long an import waits for Kafka; what is not published then, a worker publishes. */
const PUBLISHING_MS = 10_000
const Flag = Type.Optional(Type.Enum(['true', 'false']))

const Imported = Type.Object({
  rows: Type.Integer(),
  imported: Type.Integer({ description: 'keys that were imported; with dryRun: that would be' }),
  there: Type.Integer({ description: 'keys that are there already, as the same credential: nothing is done about them' }),
  newClients: Type.Array(Type.String(), { description: 'the names of clients that are made, because there are none' }),
  problems: Type.Array(Type.Object({ row: Type.Integer(), message: Type.String() }), {
    description: 'with dryRun alone; without it they are the errors of a refusal',
  }),
  published: Type.Boolean({ description: 'the gateways are being told; otherwise a worker tells them later' }),
})

export const importRoutes =
  ({ db, propagation, clock }: ApiDeps) =>
  async (api: Api): Promise<void> => {
    api.removeAllContentTypeParsers()
    api.addContentTypeParser(NDJSON_MEDIA_TYPE, { parseAs: 'buffer' }, (_request, body, done) => done(null, body))

    api.post(
      '/v1/imports',
      {
        bodyLimit: MOST_IMPORTED_BYTES,
        onRequest: async ({ headers }) => {
          if (headers['content-type']?.split(';', 1)[0]?.trim().toLowerCase() === NDJSON_MEDIA_TYPE) return
          throw new ApiError('unsupported-media-type', `Send the keys as ${NDJSON_MEDIA_TYPE}: one JSON object a line.`)
        },
        schema: {
          operationId: 'importKeys',
          summary: 'Import keys that were issued elsewhere, by the SHA-256 of their tokens',
          description: `A row is one key, and becomes a credential: sha256, client (an id, or a name), name, environment, scopes; createdAt, expiresAt; length and alphabet of the token, or bits. At most ${MOST_IMPORTED_AT_ONCE} rows. The same again does no harm.`,
          security: OPERATOR_SECURITY,
          body: { content: { [NDJSON_MEDIA_TYPE]: { schema: Type.Unknown({ description: 'a JSON object a line' }) } } },
          querystring: Input({ dryRun: Flag, acceptWeak: Flag }),
          response: { 200: Imported, ...Problems },
        },
      },
      async (request) => {
        const { dryRun, acceptWeak } = request.query
        const at = clock()
        const { rows, keys, problems } = readRows(request.body, at)
        const refuse = (found: readonly RowProblem[]): never => {
          const detail = `Row ${found[0]?.row}: ${found[0]?.message}. Nothing of this request was imported.`
          throw new ApiError(
            'import-refused',
            detail,
            found.map(({ row, message }) => ({ path: `/${row - 1}`, message })),
          )
        }
        if (dryRun !== 'true' && problems.length > 0) refuse(problems)
        const batch = { acceptWeak: acceptWeak === 'true', dryRun: dryRun === 'true', at, actor: operator(request).actor }
        const outcome = await importKeys(db, { ...batch, keys: keys.map(({ key }) => key) })
        problems.push(...outcome.problems.map(({ index, message }) => ({ row: keys[index]?.row ?? 0, message })))
        if (!batch.dryRun && problems.length > 0) refuse(problems)
        const published = outcome.keyIds.length === 0 || (await publish(outcome.keyIds, request.log))
        const { imported, there, newClients } = outcome
        return { rows, imported, there, newClients: [...newClients], problems, published }
      },
    )

    const publish = (keyIds: readonly KeyId[], log: FastifyBaseLogger): Promise<boolean> =>
      withinTime('Kafka', PUBLISHING_MS, propagation.publishMany(keyIds)).then(
        () => true,
        (error: unknown) => {
          log.warn({ err: error }, 'a worker will publish the imported keys')
          return false
        },
      )
  }

interface RowProblem {
  readonly row: number
  readonly message: string
}

/** @throws ApiError invalid-request when there are no rows, or too many */
function readRows(body: unknown, at: Date) {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.alloc(0)
  if (!isUtf8(bytes)) throw new ApiError('not-json', 'The body is not UTF-8.')
  const lines = bytes.toString('utf8').split('\n')
  if (lines.at(-1)?.trim() === '') lines.pop()
  if (lines.length === 0) throw new ApiError('invalid-request', 'The body holds no row.')
  if (lines.length > MOST_IMPORTED_AT_ONCE)
    throw new ApiError('too-large', `A request brings at most ${MOST_IMPORTED_AT_ONCE} rows: send the rest in another.`)
  const keys: { readonly row: number; readonly key: ImportedKey }[] = []
  const problems: RowProblem[] = []
  for (const [index, line] of lines.entries()) {
    const row = index + 1
    const fields = objectIn(line)
    const checked = fields === undefined ? undefined : checkImportedKey(fields, at.getTime())
    if (checked?.ok === true) keys.push({ row, key: checked.key })
    else problems.push({ row, message: checked?.message ?? 'is not a JSON object' })
  }
  return { rows: lines.length, keys, problems }
}

function objectIn(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined
  } catch {
    // What it says may quote a secret.
    return undefined
  }
}
