/** Changing what the keys of a credential may do, and from where. */
import { Allow, type Allow as Allowed, METHODS, parseAddressBlock } from '@keyturn/contract'
import Type from 'typebox'
import { changePermissions } from '../registry/permissions.ts'
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
/** What a new credential may be restricted to. */
export const AllowInput = Input({ addresses: Type.Optional(Addresses), methods: Type.Optional(Methods) })
const AllowChange = Input({
  addresses: Type.Optional(Type.Union([Addresses, Type.Null()])),
  methods: Type.Optional(Type.Union([Methods, Type.Null()])),
})

const Changed = Type.Object({
  credentialId: CredentialIdSchema,
  scopes: Type.Array(Type.String()),
  allow: Type.Optional(Allow),
  receipts: Type.Array(ReceiptSchema, { description: 'one per key that gateways were told of; none when nothing is new' }),
  propagated: Type.Boolean({ description: 'every live gateway goes by it already' }),
})

/** @throws ApiError that names what is no address */
export function checkAddresses(addresses: Allowed['addresses'] | null): void {
  const errors = (addresses ?? []).flatMap((block, i) =>
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
        summary: 'Change what the keys of a credential may do, and from where',
        description:
          'Lists are replaced as a whole; null takes a restriction away. Every key of the credential gets its next revision, so the change reaches the gateways as a rotation does.',
        security: OPERATOR_SECURITY,
        params: Input({ id: CredentialIdSchema }),
        body: Input({
          scopes: Type.Optional(Scopes),
          allow: Type.Optional(Type.Union([AllowChange, Type.Null()])),
          reason: Type.Optional(Reason),
        }),
        response: { 200: Changed, ...Problems },
      },
    },
    async (request) => {
      const { scopes, allow, reason } = request.body
      if (scopes === undefined && allow === undefined) throw new ApiError('invalid-request', 'Send scopes, allow, or both.')
      checkAddresses(allow?.addresses)
      const { actor } = operator(request)
      const changed = await changePermissions(db, { credentialId: request.params.id, scopes, allow, reason, at: clock(), actor })
      const { receipts, everywhere } = await tellGateways(deps, changed.changed, 'a change of permissions')
      return {
        credentialId: changed.credentialId,
        scopes: [...changed.scopes],
        ...given('allow', changed.allow),
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
