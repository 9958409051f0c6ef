/** Identifiers. Each is a string with a brand of its own, so that a key id can't stand where a credential id belongs. */
declare const brand: unique symbol
type Branded<Name extends string> = string & { readonly [brand]: Name }

export type KeyId = Branded<'KeyId'>
export type ClientId = Branded<'ClientId'>
export type CredentialId = Branded<'CredentialId'>
export type RotationId = Branded<'RotationId'>
export type RolloverId = Branded<'RolloverId'>
export type GatewayId = Branded<'GatewayId'>
/** One leaked token, however often and by whomever it was reported. */
export type LeakId = Branded<'LeakId'>

/** 16 base62 characters; it stands inside the token. */
export const KEY_ID_PATTERN = '^[0-9A-Za-z]{16}$'
export const CLIENT_ID_PATTERN = '^cli_[0-9A-Za-z]{16}$'
export const CREDENTIAL_ID_PATTERN = '^crd_[0-9A-Za-z]{16}$'
export const ROTATION_ID_PATTERN = '^rot_[0-9A-Za-z]{16}$'
export const LEAK_ID_PATTERN = '^leak_[0-9A-Za-z]{16}$'
export const ROLLOVER_ID_PATTERN = '^rol_[0-9A-Za-z]{16}$'
/** Chosen by whoever runs the gateway: a host name, say. */
export const GATEWAY_ID_PATTERN = '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'

const KEY_ID = new RegExp(KEY_ID_PATTERN)

export const isKeyId = (value: string): value is KeyId => KEY_ID.test(value)

/** The id of the one workflow that rotates a credential. */
export const rotationWorkflowId = (credentialId: CredentialId): string => `rotation/${credentialId}`

/** The id of the one workflow that responds to a leak. */
export const leakWorkflowId = (leakId: LeakId): string => `leak/${leakId}`

/** The id of the workflow that looks after a fleet rollover. */
export const rolloverWorkflowId = (rolloverId: RolloverId): string => `rollover/${rolloverId}`
