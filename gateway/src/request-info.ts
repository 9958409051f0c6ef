import type { RequestBody } from './body.ts'

/** Field names in lower case; a field that came more than once as a list, as in Node's `headersDistinct`. */
export interface RequestInfo {
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** The caller's. */
  readonly address: string | undefined
  /** `GET`. A key that is restricted to some methods is refused without it. */
  readonly method?: string | undefined
  /** Path with query, as the caller sent it. */
  readonly url?: string | undefined
  /** Host, with the port if it was sent. */
  readonly authority?: string | undefined
  /** `https`, or `http`: as the caller sent it. Signatures are made over it. */
  readonly scheme?: string | undefined
  /**
   * What a signed digest is compared with. `unseen`: somebody else has the body, and nobody can say whether there is one. Nothing: a request that says
   * in its head that it has a body can not be accepted when it is signed.
   */
  readonly body?: RequestBody | 'unseen' | undefined
}
