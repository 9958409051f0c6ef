import { EnvironmentSchema, type KeyKind, Labels } from '@keyturn/contract'
import Type from 'typebox'
import { claimCode } from '../registry/claims.ts'
import { createCredential, getCredential } from '../registry/credentials.ts'
import { keysOfCredential } from '../registry/keys.ts'
import { openRotationOf } from '../registry/rotations.ts'
import { lastUses, readEvidence } from '../registry/usage.ts'
import { deliveryOf } from './delivery.ts'
import { DeliveryInput } from './delivery-schemas.ts'
import { operator } from './operator.ts'
import { AllowInput, checkAllow } from './permissions.ts'
import { type ApiDeps, claimLinks } from './ports.ts'
import { ApiError } from './problems.ts'
import { tellGateways } from './propagated.ts'
import { readPublicKey } from './public-key.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import {
  ClientIdSchema,
  CredentialBody,
  CredentialIdSchema,
  Input,
  Kind,
  Name,
  Problems,
  PublicKeyInput,
  Scopes,
} from './schemas.ts'

/** How long the claim of a new credential can be used. */
const CLAIM_LIFETIME_MS = 7 * 86_400_000

const Created = Type.Object({
  credentialId: CredentialIdSchema,
  keyId: Type.String(),
  version: Type.Integer(),
  kind: Kind,
  claim: Type.Optional(
    Type.String({
      description:
        'a one-time code for the secret, or to enrol a public key: give it to the client alone. Absent where that is enrolled already',
    }),
  ),
  claimUrl: Type.Optional(Type.String({ description: 'for programs: a POST to it uses the claim' })),
  claimPage: Type.Optional(Type.String({ description: 'for people: a page with a button' })),
  claimExpiresAt: Type.Optional(Type.String({ format: 'date-time' })),
  propagated: Type.Boolean({ description: 'every live gateway accepts the key already' }),
})

export function credentialRoutes(api: Api, deps: ApiDeps): void {
  const { db, sealer, clock, config } = deps
  api.post(
    '/v1/clients/:id/credentials',
    {
      schema: {
        operationId: 'createCredential',
        summary: 'Create a credential with its first key',
        description: 'The answer never holds the secret: the client fetches it, once, with the claim.',
        security: OPERATOR_SECURITY,
        params: Input({ id: ClientIdSchema }),
        body: Input({
          name: Name,
          environment: EnvironmentSchema,
          scopes: Scopes,
          allow: Type.Optional(AllowInput),
          kind: Type.Optional(Kind),
          publicKey: Type.Optional(PublicKeyInput),
          delivery: Type.Optional(DeliveryInput),
          labels: Type.Optional(Labels),
        }),
        response: { 201: Created, ...Problems },
      },
    },
    async (request, reply) => {
      const { name, environment, scopes, allow, labels = {}, kind = 'bearer' } = request.body
      checkAllow(allow, kind)
      const publicKey = enrolledAtOnce(kind, request.body.publicKey)
      const { delivery } = request.body
      const delivered = delivery === undefined ? {} : { delivery: await deliveryOf(delivery, kind, deps) }
      const at = clock()
      const claimExpiresAt = new Date(at.getTime() + CLAIM_LIFETIME_MS)
      const { actor } = operator(request)
      const { brand } = config
      const clientId = request.params.id
      const what = { clientId, name, environment, scopes, allow, labels, kind, publicKey, ...delivered }
      const made = await createCredential(db, { ...what, brand, sealer, claimExpiresAt, at, actor })
      const claim = made.claimId === undefined ? undefined : claimCode(sealer, made.claimId)
      const { everywhere } = await tellGateways(deps, [made.keyId], 'a new key')
      return reply
        .code(201)
        .header('cache-control', 'no-store')
        .header('location', `/v1/credentials/${made.credentialId}`)
        .send({
          credentialId: made.credentialId,
          keyId: made.keyId,
          version: made.version,
          kind,
          ...(claim === undefined ? {} : { ...claimLinks(config, claim), claimExpiresAt: claimExpiresAt.toISOString() }),
          propagated: everywhere,
        })
    },
  )

  api.get(
    '/v1/credentials/:id',
    {
      schema: {
        operationId: 'getCredential',
        summary: 'Read a credential, its keys, and who still uses the old one',
        security: OPERATOR_SECURITY,
        params: Input({ id: CredentialIdSchema }),
        response: { 200: CredentialBody, ...Problems },
      },
    },
    async (request) => {
      const credential = await getCredential(db, request.params.id)
      if (credential === undefined) throw new ApiError('unknown-credential', `There is no credential ${request.params.id}.`)
      const { credentialId } = credential
      const [keys, uses, rotation] = await Promise.all([
        keysOfCredential(db, credentialId),
        lastUses(db, credentialId),
        openRotationOf(db, credentialId),
      ])
      const evidence = rotation === undefined ? undefined : await readEvidence(db, rotation.rotationId)
      return {
        credentialId,
        clientId: credential.clientId,
        name: credential.name,
        environment: credential.environment,
        scopes: [...credential.scopes],
        ...given('allow', credential.allow),
        labels: credential.labels,
        kind: credential.kind,
        delivery: credential.delivery,
        createdAt: credential.createdAt.toISOString(),
        ...given('policy', credential.policy),
        ...given('rotationId', rotation?.rotationId),
        keys: keys.map((key) => ({
          keyId: key.keyId,
          version: key.version,
          state: key.state,
          standing: key.standing,
          notBefore: key.notBefore.toISOString(),
          ...given('expiresAt', isoOf(key.expiresAt)),
          ...given('sunsetAt', isoOf(key.sunsetAt)),
          ...given('lastUsedAt', isoOf(uses.get(key.keyId))),
          ...given('publicKey', key.verifier.kind === 'ed25519' ? key.verifier.publicKey : undefined),
        })),
        stragglers: evidence === undefined ? [] : evidence.stragglers.map((straggler) => ({ ...straggler })),
      }
    },
  )
}

/** @throws ApiError when it does not belong here, or is none */
function enrolledAtOnce(kind: KeyKind, publicKey: string | undefined): string | undefined {
  if (publicKey === undefined) return undefined
  if (kind === 'ed25519') return readPublicKey(publicKey)
  throw new ApiError(
    'invalid-request',
    `Keyturn makes the secret of ${kind} keys: leave publicKey out, or set kind to ed25519.`,
    [{ path: '/publicKey', message: 'belongs to ed25519 alone' }],
  )
}
