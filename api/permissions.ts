/** Changing what the keys of a credential may do, from where, and how they reach their client. */
import { Allow, type Allow as Allowed, type KeyKind, METHODS, parseAddressBlock } from '@keyturn/contract'
import Type from 'typebox'
import { getCredential } from '../registry/credentials.ts'
import { changePermissions } from '../registry/permissions.ts'
import { deliveryOf } from './delivery.ts'
import { DeliveryBody, DeliveryInput } from './delivery-schemas.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { tellGateways } from './propagated.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { CredentialIdSchema, Input, Problems, Reason, ReceiptSchema, Scopes } from './schemas.ts'

const Addresses = Type.Array(
  Type.String({ minLength: 2, maxLength: 49, description: 'an address or a CIDR block, IPv4 or IPv6' }),
  {
    minItems: 1,
    maxItems: 100,
    uniqueItems: true,
  },
)
const Methods = Type.Array(Type.Enum([...METHODS]), { minItems: 1, uniqueItems: true })
const Sequence = Type.Enum(['required'], {
  description: 'of keys that sign: every request has to be numbered (`X-Sequence`)',
})
/** What a new credential may be restricted to. */
export const AllowInput = Input({
  addresses: Type.Optional(Addresses),
  methods: Type.Optional(Methods),
  sequence: Type.Optional(Sequence),
})
const AllowChange = Input({
  addresses: Type.Optional(Type.Union([Addresses, Type.Null()])),
  methods: Type.Optional(Type.Union([Methods, Type.Null()])),
  sequence: Type.Optional(Type.Union([Sequence, Type.Null()])),
})

const Changed = Type.Object({
  credentialId: CredentialIdSchema,
  scopes: Type.Array(Type.String()),
  allow: Type.Optional(Allow),
  delivery: DeliveryBody,
  receipts: Type.Array(ReceiptSchema, { description: 'one per key that gateways were told of; none when nothing is new' }),
  propagated: Type.Boolean({ description: 'every live gateway goes by it already' }),
})

/** @throws ApiError that names what is no address, or what keys of this kind can not be asked for */
export function checkAllow(
  allow: { readonly [part in keyof Allowed]?: Allowed[part] | null } | null | undefined,
  kind: KeyKind,
): void {
  if (allow?.sequence != null && kind === 'bearer') {
    const errors = [{ path: '/allow/sequence', message: 'is for keys of the kinds hmac-sha256 and ed25519' }]
    throw new ApiError('invalid-request', 'Requests that show a token can not be numbered: only signed ones are.', errors)
  }
  const errors = (allow?.addresses ?? []).flatMap((block, i) =>
    parseAddressBlock(block) === undefined
      ? [{ path: `/allow/addresses/${i}`, message: 'must be an address or a CIDR block such as 192.0.2.0/24 or 2001:db8::/32' }]
      : [],
  )
  if (errors.length > 0) throw new ApiError('invalid-request', 'What is allowed is no list of addresses.', errors)
}

export function permissionRoutes(api: Api, deps: ApiDeps): void {
  const { db, clock } = deps
  api.patch(
    '/v1/credentials/:id',
    {
      schema: {
        operationId: 'changePermissions',
        summary: 'Change what the keys of a credential may do, from where, and how they reach their client',
        description:
          'What is given is replaced as a whole; null takes a restriction away. Every key of the credential gets its next revision, so the change reaches the gateways as a rotation does. How keys are delivered is of the keys that are issued from then on.',
        security: OPERATOR_SECURITY,
        params: Input({ id: CredentialIdSchema }),
        body: Input({
          scopes: Type.Optional(Scopes),
          allow: Type.Optional(Type.Union([AllowChange, Type.Null()])),
          delivery: Type.Optional(DeliveryInput),
          reason: Type.Optional(Reason),
        }),
        response: { 200: Changed, ...Problems },
      },
    },
    async (request) => {
      const { scopes, allow, delivery, reason } = request.body
      if (scopes === undefined && allow === undefined && delivery === undefined)
        throw new ApiError('invalid-request', 'Send scopes, allow, delivery, or more than one of them.')
      const credentialId = request.params.id
      const credential = await getCredential(db, credentialId)
      if (credential === undefined) throw new ApiError('unknown-credential', `There is no credential ${credentialId}.`)
      checkAllow(allow, credential.kind)
      const by = { credentialId, reason, at: clock(), actor: operator(request).actor }
      const changedDelivery = delivery === undefined ? undefined : await deliveryOf(delivery, credential.kind, deps)
      const changed = await changePermissions(db, { ...by, scopes, allow, delivery: changedDelivery })
      const { receipts, everywhere } = await tellGateways(deps, changed.changed, 'a change of permissions')
      return {
        credentialId: changed.credentialId,
        scopes: [...changed.scopes],
        ...given('allow', changed.allow),
        delivery: changedDelivery ?? credential.delivery,
        receipts: receipts.map((receipt) => ({
          ...receipt,
          gateways: receipt.gateways.map((gateway) => ({ ...gateway })),
          unconfirmed: [...receipt.unconfirmed],
        })),
        propagated: everywhere,
      }
    },
  )
}
