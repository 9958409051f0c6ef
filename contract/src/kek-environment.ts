/** Key-encryption keys that a transit engine has wrapped are unwrapped once, at the start of a process: they are in memory alone then. */

import { readFileSync, statSync } from 'node:fs'
import Type from 'typebox'
import { DURATION_PATTERN, parseDuration } from './duration.ts'
import { isWrappedKek, splitKeks, TRANSIT_PATTERN, TransitError, unwrapKek } from './kek.ts'

type Environment = Readonly<Record<string, string | undefined>>

const PAUSE_MS = 500
/** The variables beside KEYTURN_KEK that say where key-encryption keys come from; whoever holds some reads them alike. */
export const KEK_SOURCES = {
  KEYTURN_KEK_FILE: Type.Optional(Type.String({ description: 'a file that holds it, which only its owner can read' })),
  KEYTURN_KEK_TRANSIT: Type.Optional(
    Type.String({
      pattern: TRANSIT_PATTERN,
      description:
        'a key of a transit engine of Vault or OpenBao, as https://host:8200/transit/name: keys in KEYTURN_KEK that it has wrapped (vault:v1:…) are unwrapped at the start',
    }),
  ),
  KEYTURN_KEK_TRANSIT_TOKEN: Type.Optional(Type.String({ description: 'a token that may decrypt with that key' })),
  KEYTURN_KEK_TRANSIT_TOKEN_FILE: Type.Optional(Type.String({ description: 'a file that holds it' })),
}

const TRANSIT = new RegExp(TRANSIT_PATTERN)
const DURATION = new RegExp(DURATION_PATTERN)

/**
 * The environment with KEYTURN_KEK in the open. As it was, where nothing is wrapped. Waits for an engine that is not there yet for as long as for
 * other servers.
 * @throws TransitError whose message is for whoever starts the process
 */
export async function withUnwrappedKeks(env: Environment): Promise<Environment> {
  const transit = env['KEYTURN_KEK_TRANSIT']
  const keks = splitKeks(read(env, 'KEYTURN_KEK'))
  // Nobody is shown the token before the address is known to be one that may see it; the configuration says what is wrong with it.
  if (!transit || !TRANSIT.test(transit) || !keks.some(isWrappedKek)) return env
  const token = read(env, 'KEYTURN_KEK_TRANSIT_TOKEN')
  if (token === '')
    throw new TransitError('KEYTURN_KEK_TRANSIT_TOKEN: not set; expected a token that may decrypt with the key', false)
  const wait = env['KEYTURN_STARTUP_WAIT'] ?? ''
  const giveUp = Date.now() + parseDuration(DURATION.test(wait) ? wait : '60s')
  const unwrapped = await Promise.all(keks.map((kek) => (isWrappedKek(kek) ? unwrap(kek, { transit, token }, giveUp) : kek)))
  return { ...env, KEYTURN_KEK: unwrapped.join(','), KEYTURN_KEK_FILE: undefined }
}

/** Where files have no such permissions, there is nothing to see. */
export const othersCanRead = (file: string): boolean =>
  process.platform !== 'win32' && ((statSync(file, { throwIfNoEntry: false })?.mode ?? 0) & 0o077) !== 0

/** What can not be read is the configuration's to say. */
function read(env: Environment, name: string): string {
  const file = env[`${name}_FILE`]
  if (!file) return env[name] ?? ''
  try {
    return readFileSync(file, 'utf8').trim()
  } catch {
    return ''
  }
}

async function unwrap(wrapped: string, by: { transit: string; token: string }, giveUp: number): Promise<string> {
  for (;;) {
    try {
      return await unwrapKek(wrapped, by)
    } catch (error) {
      if (!(error instanceof TransitError)) throw error
      if (!error.away || Date.now() > giveUp) throw new TransitError(`KEYTURN_KEK: ${error.message}`, error.away)
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
  }
}
