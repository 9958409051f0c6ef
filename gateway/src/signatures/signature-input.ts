/**
 * `Signature-Input` and `Signature` (RFC 9421 section 4), which hold exactly one signature. What is written as RFC 9651 would serialize it, which
 * is how every library writes it, is read here; anything else is first brought into that form by a library for structured fields. So there is one
 * reader, and what is signed, the serialization, is at hand.
 */
import { isInnerList, parseDictionary, serializeDictionary } from 'structured-headers'
import { Flaw } from './flaw.ts'

export interface SignatureInput {
  readonly label: string
  /** Names of what is covered, without quotes. */
  readonly components: readonly string[]
  /** The value of `@signature-params`. */
  readonly params: string
  readonly keyid: string | undefined
  readonly nonce: string | undefined
  readonly alg: string | undefined
  /** Seconds since the epoch. */
  readonly created: number | undefined
  readonly expires: number | undefined
}

const LABEL = /^[a-z*][a-z0-9_.*-]*$/
/** Field names are tokens (RFC 9110 section 5.6.2), in lower case; those of derived components begin with an at sign. */
const COMPONENT = /^"(@?[a-z0-9!#$%&'*+.^_`|~-]+)"$/
/** A string without escapes or a whole number: as they are serialized. */
const PARAM = /;([a-z*][a-z0-9_.*-]*)=(?:"([ !#-[\]-~]*)"|(0|-?[1-9][0-9]{0,14}))/y
/** Whatever RFC 9651 has, when it is known to be as it is serialized. */
const ANY_PARAM =
  /;([a-z*][a-z0-9_.*-]*)(?:=(?:"((?:[ !#-[\]-~]|\\["\\])*)"|(0|-?[1-9][0-9]{0,14})(?=;|$)|[A-Za-z*:?%@0-9-][^;" ]*|%"[^"]*"))?/y
const SIGNATURE = /^([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]+={0,2}):$/
const STRING = /"(?:[^"\\]|\\.)*"/g

const MORE_THAN_ONE = new Flaw('More than one signature; send one')
const UNREADABLE = new Flaw('Signature-Input is not readable: label=("component" …);created=…;keyid="…";nonce="…"')
const UNREADABLE_SIGNATURE = new Flaw('Signature is not readable: label=:base64:')
const WHOLE_SECONDS = new Flaw('created and expires are whole seconds since the epoch')

/** Outside of strings, a comma stands between the members of a dictionary and nowhere else. */
const holdsMore = (value: string): boolean => value.includes(',') && value.replace(STRING, '').includes(',')

/** @param canonical whether it is as it would be serialized */
function read(value: string, canonical: boolean): SignatureInput | Flaw {
  const open = value.indexOf('=(')
  const close = value.indexOf(')', open)
  const label = value.slice(0, open)
  if (open < 1 || close < 0 || !LABEL.test(label)) return UNREADABLE
  const inner = value.slice(open + 2, close)
  const components: string[] = []
  for (const each of inner === '' ? [] : inner.split(' ')) {
    const name = COMPONENT.exec(each)?.[1]
    if (name === undefined) return canonical ? new Flaw('Covered components are plain names, without parameters') : UNREADABLE
    if (components.includes(name)) return new Flaw(`"${name}" is covered twice`)
    components.push(name)
  }
  const seen: string[] = []
  let keyid: string | undefined
  let nonce: string | undefined
  let alg: string | undefined
  let created: number | undefined
  let expires: number | undefined
  const pattern = canonical ? ANY_PARAM : PARAM
  pattern.lastIndex = close + 1
  while (pattern.lastIndex < value.length) {
    const found = pattern.exec(value)
    if (found === null) return UNREADABLE
    const [, name = '', raw, number] = found
    if (seen.includes(name)) return UNREADABLE
    seen.push(name)
    const text = raw?.includes('\\') ? raw.replace(/\\(.)/g, '$1') : raw
    if (name === 'created' || name === 'expires') {
      if (number === undefined) return WHOLE_SECONDS
      if (name === 'created') created = Number(number)
      else expires = Number(number)
    } else if (name === 'keyid' || name === 'nonce' || name === 'alg') {
      if (text === undefined) return new Flaw(`${name} is a string in quotes`)
      if (name === 'keyid') keyid = text
      else if (name === 'nonce') nonce = text
      else alg = text
    }
  }
  return { label, components, params: value.slice(open + 1), keyid, nonce, alg, created, expires }
}

export function parseSignatureInput(value: string): SignatureInput | Flaw {
  if (holdsMore(value)) return MORE_THAN_ONE
  const direct = read(value, false)
  if (direct !== UNREADABLE && direct !== WHOLE_SECONDS) return direct
  try {
    const dictionary = parseDictionary(value)
    const [member] = dictionary.values()
    if (dictionary.size !== 1 || member === undefined || !isInnerList(member)) return UNREADABLE
    return read(serializeDictionary(dictionary), true)
  } catch {
    return UNREADABLE
  }
}

/** @param label of the one in `Signature-Input` */
export function parseSignature(value: string, label: string): Buffer | Flaw {
  if (holdsMore(value)) return MORE_THAN_ONE
  const [, name, base64] = SIGNATURE.exec(value) ?? []
  if (base64 !== undefined) return name === label ? Buffer.from(base64, 'base64') : new Flaw(`Signature has no "${label}"`)
  try {
    const member = parseDictionary(value).get(label)
    const bytes = member?.[0]
    return bytes instanceof ArrayBuffer ? Buffer.from(bytes) : UNREADABLE_SIGNATURE
  } catch {
    return UNREADABLE_SIGNATURE
  }
}
