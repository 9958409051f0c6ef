/** Key-encryption keys as they are configured: in the open, or wrapped by a transit engine of Vault or OpenBao. */

export const KEK_BYTES = 32

/** One, or two while one is being replaced; with commas, spaces or line ends between them. */
export const splitKeks = (text: string): string[] => text.split(/[\s,]+/).filter((part) => part !== '')

const WRAPPED = /^vault:v\d+:[A-Za-z0-9+/]+=*$/
export const isWrappedKek = (text: string): boolean => WRAPPED.test(text)

/** The key comes back in the answer: without TLS it would be on the network. */
export const TRANSIT_PATTERN =
  '^(https://|http://(localhost|127[.]0[.]0[.]1|\\[::1\\])[:/])[^\\s?#@]*/[A-Za-z0-9_./-]+/[A-Za-z0-9_.-]+$'

/** Why a key could not be unwrapped, for a person. `away`: a later try may help. */
export class TransitError extends Error {
  override readonly name = 'TransitError'
  readonly away: boolean
  constructor(message: string, away: boolean, options?: ErrorOptions) {
    super(message, options)
    this.away = away
  }
}

const ANSWER_MS = 5_000

/**
 * Has a key unwrapped: `POST /v1/<mount>/decrypt/<name>`.
 * @param transit `https://host:8200/<mount>/<name>`
 * @returns the key in base64
 * @throws TransitError
 */
export async function unwrapKek(wrapped: string, { transit, token }: { transit: string; token: string }): Promise<string> {
  const { origin, host, pathname } = new URL(transit)
  const slash = pathname.lastIndexOf('/')
  const url = `${origin}/v1${pathname.slice(0, slash)}/decrypt${pathname.slice(slash)}`
  let response: Response
  try {
    const init = { method: 'POST', redirect: 'error', body: JSON.stringify({ ciphertext: wrapped }) } as const
    response = await fetch(url, { ...init, headers: { 'x-vault-token': token }, signal: AbortSignal.timeout(ANSWER_MS) })
  } catch (error) {
    throw new TransitError(`the transit engine at ${host} does not answer`, true, { cause: error })
  }
  if (response.status >= 500) throw new TransitError(`the transit engine at ${host} answers ${response.status}`, true)
  if (response.status === 403) throw new TransitError(`the transit engine at ${host} does not let this token decrypt`, false)
  const body = (await response.json().catch(() => undefined)) as { data?: { plaintext?: unknown } } | undefined
  const plaintext = body?.data?.plaintext
  if (typeof plaintext === 'string') return plaintext
  throw new TransitError(
    `the transit engine at ${host} can not unwrap it (${response.status}): was it wrapped by this key?`,
    false,
  )
}

/**
 * One key, or two: the one that seals comes first. What is wrong with them is said without a word of them.
 * @param name of the variable they are in
 */
export function parseKeks(text: string, name: string): { readonly keks: readonly Buffer[]; readonly flaws: readonly string[] } {
  const texts = splitKeks(text)
  const keks = texts.map((each) => Buffer.from(each, 'base64'))
  const flaws: string[] = []
  if (texts.some(isWrappedKek)) flaws.push(`${name}: is wrapped; KEYTURN_KEK_TRANSIT says who unwraps it`)
  else if ((text !== '' && keks.length === 0) || keks.slice(0, 2).some(({ length }) => length !== KEK_BYTES))
    flaws.push(`${name}: not 32 bytes in base64; \`openssl rand -base64 32\` makes one`)
  if (keks.length > 2) flaws.push(`${name}: more than two; \`keyturn reseal\` first, then the old one can go`)
  if (keks[0] !== undefined && keks[1]?.equals(keks[0]) === true) flaws.push(`${name}: the same key twice`)
  return { keks, flaws }
}
