/**
 * Where clients fetch secrets: with a claim, or with the key that is about to be replaced. Each secret leaves once (G10), which
 * an answer that is repeated to the one who alone can read it does not change. And where they enrol the public half of a pair of
 * their own.
 */
import { type CredentialId, type KeyId, type RotationId, tokenSha256 } from '@keyturn/contract'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import { type Redeemed, redeemClaim, redeemSuccessor } from '../registry/claims.ts'
import { bearer } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { tellGateways } from './propagated.ts'
import { readPublicKey, readRecipientOf } from './public-key.ts'
import { type Api, given, isoOf } from './routes.ts'
import { HandedOut, Input, Problems, PublicKeyInput, RecipientInput } from './schemas.ts'
import { whereFrom } from './where-from.ts'

const CLAIM = /^[0-9A-Za-z]{43}$/

export function claimRoutes(api: Api, deps: ApiDeps): void {
  const { db, sealer, clock } = deps
  const noBodyNeeded = async (request: FastifyRequest): Promise<void> => {
    request.body ??= {}
  }

  api.post(
    '/v1/claims/:claim',
    {
      preValidation: noBodyNeeded,
      schema: {
        operationId: 'redeemClaim',
        summary: 'Fetch a secret with its claim, or enrol a public key, once',
        description:
          'Of an ed25519 credential: send the public key. The answer comes when every live gateway accepts it; until then it is 503, and the same may be sent again. Of another: with a recipient, the secret is encrypted to it, and the same may be sent again for 10 minutes.',
        security: [],
        params: Input({ claim: Type.String({ maxLength: 100 }) }),
        body: Input({ publicKey: Type.Optional(PublicKeyInput), recipient: Type.Optional(RecipientInput) }),
        response: { 200: HandedOut, ...Problems },
      },
    },
    async (request, reply) => {
      const { claim } = request.params
      if (!CLAIM.test(claim)) throw new ApiError('unknown-claim', 'Copy the claim as a whole: it has 43 letters and digits.')
      const sent = request.body.publicKey
      const publicKey = sent === undefined ? undefined : readPublicKey(sent)
      const recipient = await readRecipientOf(request.body)
      const redeemed = await redeemClaim(db, {
        code: claim,
        publicKey,
        recipient,
        at: clock(),
        from: whereFrom(request),
        sealer,
      })
      switch (redeemed.outcome) {
        case 'handed-out':
        case 'encrypted':
          return handOut(reply, redeemed)
        case 'enrolled':
          await acceptedEverywhere(deps, redeemed.keyId)
          return handOut(reply, redeemed)
        case 'public-key-needed':
          throw new ApiError('invalid-request', 'This claim enrols an Ed25519 key that you make: send its public half.', [
            { path: '/publicKey', message: 'is missing' },
          ])
        case 'no-public-key':
          throw new ApiError('invalid-request', 'This claim hands a key out: send no public key.', [
            { path: '/publicKey', message: 'has no place here' },
          ])
        case 'no-recipient':
          throw new ApiError('invalid-request', 'This claim enrols an Ed25519 key, which is no secret: name no recipient.', [
            { path: '/recipient', message: 'has no place here' },
          ])
        case 'unknown':
          throw new ApiError('unknown-claim', 'No claim has this code. Copy it as a whole.')
        case 'used':
          return usedBefore(deps, request, redeemed)
        case 'expired':
          throw new ApiError('claim-expired', 'The secret has been destroyed. Ask the provider for a rotation.')
      }
    },
  )

  api.post(
    '/v1/successor',
    {
      preValidation: noBodyNeeded,
      schema: {
        operationId: 'redeemSuccessor',
        summary: 'Fetch the new key by showing the old one, once',
        security: [{ oldKey: [] }],
        description: 'With a recipient, the secret is encrypted to it, and the same may be sent again for 10 minutes.',
        body: Input({ recipient: Type.Optional(RecipientInput) }),
        response: { 200: HandedOut, ...Problems },
      },
    },
    async (request, reply) => {
      const token = bearer(request)
      if (token === undefined) throw new ApiError('missing-key', 'Send the old key as "Authorization: Bearer <key>".')
      const redeemed = await redeemSuccessor(db, {
        tokenSha256: tokenSha256(token),
        recipient: await readRecipientOf(request.body),
        at: clock(),
        from: whereFrom(request),
        sealer,
      })
      switch (redeemed.outcome) {
        case 'handed-out':
        case 'encrypted':
          return handOut(reply, redeemed)
        case 'unknown':
          throw new ApiError('invalid-key', 'Send the key that is being replaced, as a whole.')
        case 'used':
          return usedBefore(deps, request, redeemed)
        case 'expired':
          throw new ApiError('claim-expired', 'The secret has been destroyed. Ask the provider for a rotation.')
        case 'refused':
          throw new ApiError('successor-refused', 'Use the claim that the provider has sent.')
        case 'shown-signing-key':
          throw new ApiError(
            'successor-refused',
            'This key signs requests: use the claim that the provider has sent. It has been sent in the open now, which it must never be: have it replaced.',
          )
        case 'no-successor':
          throw new ApiError('no-successor', 'No rotation of this key is in its overlap window.')
      }
    },
  )
}

function handOut(
  reply: FastifyReply,
  redeemed: Extract<Redeemed, { outcome: 'handed-out' | 'encrypted' | 'enrolled' }>,
): { token?: string; jwe?: string; keyId: string; sunsetAt?: string } {
  const { outcome, keyId, sunsetAt } = redeemed
  reply.code(200).header('cache-control', 'no-store')
  return {
    ...(outcome === 'handed-out' ? { token: redeemed.token } : {}),
    ...(outcome === 'encrypted' ? { jwe: redeemed.jwe } : {}),
    keyId,
    ...given('sunsetAt', isoOf(sunsetAt)),
  }
}

/**
 * A client that has this answer may sign with its new key at once.
 * @throws ApiError while a gateway does not accept it
 */
async function acceptedEverywhere(deps: ApiDeps, keyId: KeyId): Promise<void> {
  const { everywhere } = await tellGateways(deps, [keyId], 'an enrolled key')
  if (everywhere) return
  throw new ApiError(
    'not-everywhere-yet',
    'The key is enrolled, and a gateway does not accept it yet. Go on with the old one, and send the same again until the answer is 200.',
  )
}

/** Somebody has the secret already. Whether that was the client is a question for people, so they are told. */
async function usedBefore(
  { alert, tellOfSecondClaim, log }: ApiDeps,
  request: FastifyRequest,
  { keyId, credentialId, rotationId }: { keyId: KeyId; credentialId: CredentialId; rotationId?: RotationId | undefined },
): Promise<never> {
  const detail = `a claim that had been used was tried again from ${request.ip}; if the client did not fetch the key, start an emergency`
  tellOfSecondClaim(keyId)
  // The answer does not wait for Kafka: the second try is in the audit log by now.
  alert({ kind: 'second-claim', credentialId, ...given('rotationId', rotationId), detail }).catch((error: unknown) =>
    log.error({ err: error, credentialId }, 'the alert of a second claim could not be raised'),
  )
  throw new ApiError('claim-used', 'The secret has been handed out before. If it was not to you, tell the provider at once.')
}
