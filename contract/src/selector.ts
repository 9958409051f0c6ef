/** Which credentials something is about: the same words in policies, fleet rollovers and on the command line. */
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { ENVIRONMENTS } from './environment.ts'
import { CLIENT_ID_PATTERN } from './ids.ts'
import { ScopePattern } from './key-record.ts'
import { scopesTouch } from './scope.ts'

export const LABEL_NAME_PATTERN = '^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$'
export const LABEL_VALUE_PATTERN = '^[^\\s,=]+$'
const LabelValue = Type.String({ minLength: 1, maxLength: 100, pattern: LABEL_VALUE_PATTERN })

/** Labels of a credential: the provider's own words for it, `team: rates`. */
export const Labels = Type.Record(Type.String({ pattern: LABEL_NAME_PATTERN }), LabelValue, {
  maxProperties: 20,
  additionalProperties: false,
})
export type Labels = Type.Static<typeof Labels>

const oneOrMore = <T extends Type.TSchema>(one: T) =>
  Type.Union([one, Type.Array(one, { minItems: 1, maxItems: 1_000, uniqueItems: true })])

/** All that is given must hold; of a list, one. A scope is a pattern, and selects whoever can do anything that it covers. */
export const Selector = Type.Object(
  {
    client: Type.Optional(oneOrMore(Type.String({ pattern: CLIENT_ID_PATTERN }))),
    environment: Type.Optional(oneOrMore(Type.Enum([...ENVIRONMENTS]))),
    scope: Type.Optional(oneOrMore(Type.String({ pattern: `^\\*$|${ScopePattern}`, maxLength: 100 }))),
    labels: Type.Optional(Labels),
  },
  { additionalProperties: false },
)
export type Selector = Type.Static<typeof Selector>

const VALIDATOR = Compile(Selector)
const FORM = 'write client=cli_…, environment=prod, scope=trade:*, label.team=rates, separated by spaces'

/** What a selector speaks of. */
export interface Selectable {
  readonly clientId: string
  readonly environment: string
  readonly scopes: readonly string[]
  readonly labels: Readonly<Record<string, string>>
}

/** Nothing in it: it selects every credential there is. */
export const isEmptySelector = ({ client, environment, scope, labels }: Selector): boolean =>
  client === undefined && environment === undefined && scope === undefined && Object.keys(labels ?? {}).length === 0

export const listOf = <T>(value: T | readonly T[] | undefined): readonly T[] | undefined =>
  value === undefined ? undefined : Array.isArray(value) ? (value as readonly T[]) : [value as T]

export function selects(selector: Selector, credential: Selectable): boolean {
  const clients = listOf<string>(selector.client)
  const environments = listOf<string>(selector.environment)
  const scopes = listOf<string>(selector.scope)
  return (
    (clients === undefined || clients.includes(credential.clientId)) &&
    (environments === undefined || environments.includes(credential.environment)) &&
    (scopes === undefined || scopes.some((pattern) => credential.scopes.some((scope) => scopesTouch(pattern, scope)))) &&
    Object.entries(selector.labels ?? {}).every(([name, value]) => credential.labels[name] === value)
  )
}

/**
 * Reads a selector from one line: `environment=prod scope=trade:*,orders:write label.team=rates`.
 * @throws RangeError that says what one looks like
 */
export function parseSelector(text: string): Selector {
  const selector: Record<string, unknown> = {}
  const labels: Record<string, string> = {}
  for (const term of text.split(/\s+/).filter((part) => part !== '')) {
    const equals = term.indexOf('=')
    const name = term.slice(0, equals)
    const value = term.slice(equals + 1)
    if (equals < 1 || value === '') throw new RangeError(`"${term}" selects nothing: ${FORM}`)
    if (name.startsWith('label.')) labels[name.slice('label.'.length)] = value
    else if (name in selector) throw new RangeError(`"${name}" stands there twice: ${FORM}, several values with commas`)
    else selector[name] = value.includes(',') ? value.split(',') : value
  }
  if (Object.keys(labels).length > 0) selector['labels'] = labels
  if (VALIDATOR.Check(selector)) return selector
  const where = VALIDATOR.Errors(selector)[0]?.instancePath.slice(1) ?? ''
  throw new RangeError(`not a selector${where === '' ? '' : ` (${where})`}: ${FORM}`)
}

/** The one line that `parseSelector` reads. */
export function formatSelector({ labels = {}, ...lists }: Selector): string {
  const terms = Object.entries(lists).map(([name, value]) => `${name}=${listOf<string>(value)?.join(',')}`)
  return [...terms, ...Object.entries(labels).map(([name, value]) => `label.${name}=${value}`)].join(' ')
}
