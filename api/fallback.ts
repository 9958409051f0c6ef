/** The fallback of gateways that do not hear from Kafka: what ends of keys they have missed, signed. */
import { FALLBACK_ISSUER, FALLBACK_PATH, FALLBACK_TYPE, type FallbackAnswer, Timestamp } from '@keyturn/contract'
import { SignJWT } from 'jose'
import Type from 'typebox'
import { answerFallback } from '../registry/fallback.ts'
import { toKeyRecord } from '../registry/keys.ts'
import { bearer, isToken } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, given } from './routes.ts'
import { GatewayIdSchema, Input, Problems } from './schemas.ts'

const PAGE = 500
const LIFETIME_MS = 60_000

export function fallbackRoutes(api: Api, { db, clock, config: { fallback } }: ApiDeps): void {
  api.get(
    FALLBACK_PATH,
    {
      onRequest: async (request) => {
        if (fallback !== undefined && !isToken(bearer(request) ?? '', fallback.gatewayToken))
          throw new ApiError('gateway-token-required', 'Send "Authorization: Bearer <token of the gateways>".')
      },
      schema: {
        operationId: 'fallbackKeys',
        summary: 'Ask which keys have ended, when Kafka does not tell',
        description:
          'For gateways. The answer is a JSON Web Signature over keys that are not accepted any more; it never makes one accepted.',
        security: [{ gateway: [] }],
        querystring: Input({
          gateway: GatewayIdSchema,
          nonce: Type.String({
            pattern: '^[0-9A-Za-z]{16,64}$',
            description: 'any text that was never sent before; it comes back signed',
          }),
          since: Timestamp,
          after: Type.Optional(
            Type.String({ maxLength: 64, description: '`next` of the last answer. It says that all of that answer is applied' }),
          ),
        }),
        response: { 200: Type.Object({ answer: Type.String({ description: 'JWS in compact form, EdDSA' }) }), ...Problems },
      },
    },
    async (request, reply) => {
      if (fallback === undefined)
        throw new ApiError('not-found', 'There is no fallback here: set KEYTURN_GATEWAY_TOKEN and KEYTURN_SIGNING_KEY.')
      const { gateway: gatewayId, nonce, since, after } = request.query
      const at = clock()
      const page = await answerFallback(db, { gatewayId, since: new Date(since), at, limit: PAGE, ...given('after', after) })
      const signed: Omit<FallbackAnswer, 'aud'> = { nonce, keys: page.keys.map(toKeyRecord), next: page.next, more: page.more }
      const answer = await new SignJWT({ ...signed })
        .setProtectedHeader({ alg: 'EdDSA', typ: FALLBACK_TYPE })
        .setIssuer(FALLBACK_ISSUER)
        .setAudience(gatewayId)
        .setIssuedAt(at)
        .setExpirationTime(new Date(at.getTime() + LIFETIME_MS))
        .sign(fallback.signingKey)
      reply.header('cache-control', 'no-store')
      return { answer }
    },
  )
}
