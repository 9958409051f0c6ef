/**
 * How the keys of a credential are shown: `bearer` tokens are sent as they are, `hmac-sha256` tokens sign requests and are never sent,
 * `ed25519` keys sign requests too, and their private half never leaves the client.
 */
export const KEY_KINDS = ['bearer', 'hmac-sha256', 'ed25519'] as const
export type KeyKind = (typeof KEY_KINDS)[number]
export const SIGNING_KINDS: readonly KeyKind[] = ['hmac-sha256', 'ed25519']
