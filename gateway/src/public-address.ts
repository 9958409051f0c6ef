/** Where a request was sent to, as its signer saw it. */
export interface Origin {
  readonly scheme: string
  /** In lower case, without the port that the scheme has by default. */
  readonly authority: string
}

const DEFAULT_PORT: Readonly<Record<string, RegExp>> = { http: /:80$/, https: /:443$/ }

const normal = (scheme: string, authority: string): Origin => {
  const [low, name] = [scheme.toLowerCase(), authority.toLowerCase()]
  return { scheme: low, authority: name.replace(DEFAULT_PORT[low] ?? /$^/, '') }
}

/** @throws TypeError when it is no URL of http or https */
export function parseOrigin(url: string): Origin {
  const { protocol, host } = new URL(url)
  if (protocol !== 'http:' && protocol !== 'https:') throw new TypeError('an origin is http or https')
  return { scheme: protocol.slice(0, -1), authority: host }
}

/**
 * @param configured where clients find us. With it, what arrives is only asked which of them it is: the first one where it is none of them
 * @returns a function from what a request says of itself
 */
export const createOriginOf = (configured: readonly string[] = []) => {
  const origins = configured.map(parseOrigin)
  return ({ scheme = 'http', authority = '' }: { scheme?: string | undefined; authority?: string | undefined }): Origin => {
    const said = normal(scheme, authority)
    return origins.find((each) => each.authority === said.authority) ?? origins[0] ?? said
  }
}
