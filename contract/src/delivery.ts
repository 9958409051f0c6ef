/** How the secret of a new key reaches the client: chosen for each credential. */
import type { Recipient } from './claim.ts'

export const DELIVERY_METHODS = ['claim', 'jwe', 'vault', 'aws-secrets-manager'] as const
export type DeliveryMethod = (typeof DELIVERY_METHODS)[number]

interface Written {
  /** The field with the token, for programs that read it by themselves; `token` unless given. */
  readonly field?: string
  /** The `aud` of the token by which Keyturn shows who it is. */
  readonly audience?: string
}

/** KV version 2 of a Vault or OpenBao, where Keyturn logs in by the auth method `jwt`. */
export interface VaultDelivery extends Written {
  readonly method: 'vault'
  /** https; `/v1/…` comes after it. */
  readonly address: string
  readonly mount: string
  readonly path: string
  readonly role: string
  /** Where the auth method is mounted; `jwt` unless given. */
  readonly authMount?: string
  readonly namespace?: string
}

/** AWS Secrets Manager, in the role of the client's account that Keyturn may take on (AssumeRoleWithWebIdentity). */
export interface AwsDelivery extends Written {
  readonly method: 'aws-secrets-manager'
  readonly region: string
  /** Name or ARN. */
  readonly secretId: string
  readonly roleArn: string
  /** Of Secrets Manager, and of STS; those of the region unless given. */
  readonly endpoint?: string
  readonly stsEndpoint?: string
}

export type StoreDelivery = VaultDelivery | AwsDelivery

export type KeyDelivery =
  /** Handed out by a claim, or for the old key. */
  | { readonly method: 'claim' }
  /** The same, and always encrypted to this key. */
  | { readonly method: 'jwe'; readonly recipient: Recipient }
  /** Written into the client's own store; there is nothing to claim. */
  | StoreDelivery

/** Where the public keys are with which the tokens that Keyturn shows to clients' stores are verified. */
export const IDENTITY_KEYS_PATH = '/.well-known/identity-keys.json'
export const OPENID_CONFIGURATION_PATH = '/.well-known/openid-configuration'

/** Who Keyturn is when it writes the keys of a credential: the `sub` of its token. */
export const identityOf = (credentialId: string): string => `credential:${credentialId}`

/** How the token is signed: AWS takes RSA and ECDSA alone. */
export const IDENTITY_ALG = 'ES256' as const
