/**
 * Where clients fetch secrets: with a claim, or with the key that is about to be replaced. Each secret leaves once (G10), which
 * an answer that is repeated to the one who alone can read it does not change. And where they enrol the public half of a pair of
 * their own.
 */
import type { KeyId } from '@keyturn/contract'
import type { FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import { type Redeemed, redeemClaim, redeemSuccessor, type UsedClaim } from '../registry/claims.ts'
import { RecipientInput } from './delivery-schemas.ts'
import { createGuesses } from './guesses.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { tellGateways } from './propagated.ts'
import { readPublicKey, readRecipientOf } from './public-key.ts'
import { type Api, given, isoOf } from './routes.ts'
import { HandedOut, Input, Problems, PublicKeyInput } from './schemas.ts'
import { shownKey } from './shown-key.ts'
import { whereFrom } from './where-from.ts'

const CLAIM = /^[0-9A-Za-z]{43}$/

export function claimRoutes(api: Api, deps: ApiDeps): void {
  const { db, sealer, clock } = deps
  const guesses = createGuesses()
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
      await guesses.refuseMany(request.ip)
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
        case 'no-public-key':
        case 'no-recipient':
          throw unfitting(redeemed.outcome)
        case 'other-recipient':
        case 'delivered-elsewhere':
          throw elsewhere(redeemed.outcome)
        case 'unknown':
          await guesses.count(request.ip)
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
        summary: 'Fetch the new key, or enrol its public half, by showing the old one, once',
        security: [{ oldKey: [] }, { signature: [] }],
        description:
          'With a recipient, the secret is encrypted to it, and the same may be sent again for 10 minutes. A key that signs requests is shown by signing this one (RFC 9421): an hmac-sha256 key then needs a recipient, an ed25519 key a public key.',
        body: Input({ publicKey: Type.Optional(PublicKeyInput), recipient: Type.Optional(RecipientInput) }),
        response: { 200: HandedOut, ...Problems },
      },
    },
    async (request, reply) => {
      await guesses.refuseMany(request.ip)
      const sent = request.body.publicKey
      const redeemed = await redeemSuccessor(db, {
        shown: await shownKey(request, deps, 'the old key'),
        publicKey: sent === undefined ? undefined : readPublicKey(sent),
        recipient: await readRecipientOf(request.body),
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
        case 'no-public-key':
        case 'no-recipient':
          throw unfitting(redeemed.outcome)
        case 'other-recipient':
        case 'delivered-elsewhere':
          throw elsewhere(redeemed.outcome)
        case 'recipient-needed':
          throw new ApiError('invalid-request', 'A token that signs requests never travels in the open: name a recipient.', [
            { path: '/recipient', message: 'is missing' },
          ])
        case 'unknown':
          await guesses.count(request.ip)
          throw new ApiError('invalid-key', 'Send the key that is being replaced, as a whole.')
        case 'used':
          return usedBefore(deps, request, redeemed)
        case 'expired':
          throw new ApiError('claim-expired', 'The secret has been destroyed. Ask the provider for a rotation.')
        case 'refused':
          throw new ApiError(
            'successor-refused',
            'This key does not open the way to the new one. Use a claim: your provider gives you one.',
          )
        case 'shown-signing-key':
          throw new ApiError(
            'successor-refused',
            'This key signs requests: sign this one with it, or use a claim, which your provider gives you. It has been sent in the open now, which it must never be: have it replaced.',
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

const UNFITTING = {
  'public-key-needed': ['This claim enrols an Ed25519 key that you make: send its public half.', '/publicKey', 'is missing'],
  'no-public-key': ['This claim hands a key out: send no public key.', '/publicKey', 'has no place here'],
  'no-recipient': ['This claim enrols an Ed25519 key, which is no secret: name no recipient.', '/recipient', 'has no place here'],
} as const

/** What was sent is not what a key of this kind needs. The claim stays open. */
function unfitting(outcome: keyof typeof UNFITTING): ApiError {
  const [detail, path, message] = UNFITTING[outcome]
  return new ApiError('invalid-request', detail, [{ path, message }])
}

/** The client's provider has agreed with it on another way. The claim stays open. */
const elsewhere = (outcome: 'other-recipient' | 'delivered-elsewhere'): ApiError =>
  outcome === 'other-recipient'
    ? new ApiError(
        'recipient-refused',
        'Keys of this credential are encrypted to the recipient that is registered: name that one, or none.',
      )
    : new ApiError('delivered-elsewhere', "The new key is written into the client's own store: read it there.")

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

/** What has happened, and the one step that ends it. */
function disputeText({ credentialId, keyId, rotationId, rotationRuns, usedAt, usedFrom }: UsedClaim, from: string): string {
  const first = `the claim of key ${keyId} was used from ${usedFrom?.slice(0, 80) ?? 'an unknown address'} at ${isoOf(usedAt) ?? 'some time'}`
  const step =
    rotationRuns && rotationId !== undefined
      ? `keyturn escalate ${rotationId} --reason "claim stolen" (POST /v1/rotations/${rotationId}/escalate)`
      : `keyturn emergency ${credentialId} --reason "claim stolen" (POST /v1/credentials/${credentialId}/rotations)`
  return `${first}, and tried again from ${from}, which was refused. If the first was not the client: ${step} ends every key that it may have`
}

/** Somebody has the secret already. Whether that was the client is a question for people, so they are told. */
async function usedBefore({ alert, tellOfSecondClaim, log }: ApiDeps, request: FastifyRequest, used: UsedClaim): Promise<never> {
  const { credentialId, keyId, rotationId } = used
  const detail = disputeText(used, request.ip)
  tellOfSecondClaim(keyId)
  // The answer does not wait for Kafka: the second try is in the audit log by now.
  alert({ kind: 'second-claim', credentialId, ...given('rotationId', rotationId), detail }).catch((error: unknown) =>
    log.error({ err: error, credentialId }, 'the alert of a second claim could not be raised'),
  )
  throw new ApiError('claim-used', 'The secret has been handed out before. If it was not to you, tell the provider at once.')
}
