/** How the secret of a key reaches its client, as JSON Schema. */
import { DELIVERY_METHODS } from '@keyturn/contract'
import Type from 'typebox'

/** Other members are looked at by the route: a private key has to be told what it is. */
export const RecipientInput = Type.Object(
  {
    kty: Type.String({ maxLength: 20, description: 'EC' }),
    crv: Type.Optional(Type.String({ maxLength: 20, description: 'P-256' })),
    x: Type.Optional(Type.String({ maxLength: 100, description: '32 bytes in base64url' })),
    y: Type.Optional(Type.String({ maxLength: 100, description: '32 bytes in base64url' })),
  },
  {
    additionalProperties: true,
    description:
      'the public half of a P-256 key pair, made for this claim, as a JSON Web Key: the secret is encrypted to it, and for 10 minutes the same recipient is given the same answer again',
  },
)

const Text = (description: string, maxLength = 200) => Type.Optional(Type.String({ minLength: 1, maxLength, description }))

const fields = {
  address: Text('of vault: https://vault.example.com:8200', 500),
  mount: Text('of vault: where KV version 2 is mounted'),
  path: Text('of vault: of the secret, within the mount', 500),
  role: Text('of vault: the role of the auth method jwt'),
  authMount: Text('of vault: where that is mounted; jwt unless given'),
  namespace: Text('of vault'),
  region: Text('of aws-secrets-manager: eu-central-1'),
  secretId: Text('of aws-secrets-manager: name or ARN', 512),
  roleArn: Text('of aws-secrets-manager: the role that Keyturn takes on', 2_048),
  endpoint: Text('of aws-secrets-manager: that of the region unless given', 500),
  stsEndpoint: Text('of aws-secrets-manager: that of the region unless given', 500),
  field: Text('of both: the field with the token; token unless given'),
  audience: Text('of both: the aud of the token that Keyturn shows; the address, or sts.amazonaws.com, unless given', 255),
}

const Method = Type.Enum([...DELIVERY_METHODS], {
  description:
    "claim: handed out by a claim, or for the old key; jwe: the same, encrypted to the recipient; vault, aws-secrets-manager: written into the client's own store",
})

/** What belongs to which method, the registry says: a union would name no path in its errors. */
export const DeliveryInput = Type.Object(
  { method: Method, recipient: Type.Optional(RecipientInput), ...fields },
  { additionalProperties: false },
)

export const DeliveryBody = Type.Object({
  method: Method,
  recipient: Type.Optional(Type.Object({ kty: Type.String(), crv: Type.String(), x: Type.String(), y: Type.String() })),
  ...fields,
})
