/** How signed requests are checked. */
export interface SigningSettings {
  /** Key-encryption keys, 32 bytes each: what sealed signing keys are opened with. Without the right one, requests of HMAC keys get 503. */
  readonly keks: readonly Buffer[]
  /** `https://api.example.com`, where clients find the API. Nothing: as each request says itself. */
  readonly publicUrls: readonly string[]
  /** The largest body that is looked at for its digest, in bytes. */
  readonly bodyLimit: number
  /** For how long such a body may take to arrive. */
  readonly bodyTimeoutMs: number
  /**
   * Where somebody else has the body. `refuse`: a signed request is only accepted when its method has none. `api-checks`: its `Content-Digest` has to
   * be signed, and the API promises to compare it.
   */
  readonly unseenBodies: 'refuse' | 'api-checks'
}

export const DEFAULT_SIGNING: SigningSettings = {
  keks: [],
  publicUrls: [],
  bodyLimit: 1_048_576,
  bodyTimeoutMs: 30_000,
  unseenBodies: 'refuse',
}
