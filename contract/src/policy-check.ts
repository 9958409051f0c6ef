/** Whether policies make sense. Every flaw says where it is and what to do. */
import type Type from 'typebox'
import { Compile, type Validator } from 'typebox/compile'
import { DURATION_PATTERN, formatDuration, parseDuration } from './duration.ts'
import { explain, type FieldFlaw, type SchemaError } from './explain.ts'
import { CLIENT_ID_PATTERN } from './ids.ts'
import { ScopePattern } from './key-record.ts'
import {
  type Blackout,
  DATES_PATTERN,
  FROM_PATTERN,
  POLICY_NAME_PATTERN,
  Policy,
  PolicyFile,
  RATE_PATTERN,
  SHARE_PATTERN,
  TIME_ZONE_PATTERN,
  TO_PATTERN,
} from './policy.ts'
import {
  DEFAULT_PERIOD_MS,
  LONGEST_ALLOWED_PERIOD_MS,
  LONGEST_PERIOD_MS,
  parseShare,
  SHORTEST_PERIOD_MS,
  termsOf,
} from './policy-terms.ts'
import { LONGEST_RECEIPT_WAIT_MS } from './rotation.ts'
import { isEmptySelector, LABEL_VALUE_PATTERN } from './selector.ts'

export interface PolicyFlaw extends FieldFlaw {
  /** The name of the policy, where it has a usable one. */
  readonly policy?: string
}

/** A flaw as a line for people: `policy "trading", overlap: must be shorter than the period of 30d`. */
export function flawText({ policy, path, message }: PolicyFlaw): string {
  const field = path.split('/').slice(1).join('.')
  const where = [...(policy === undefined ? [] : [`policy "${policy}"`]), ...(field === '' ? [] : [field])].join(', ')
  return where === '' ? message : `${where}: ${message}`
}

export type Checked<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly flaws: readonly PolicyFlaw[] }

const POLICY = Compile(Policy)
const FILE = Compile(PolicyFile)

/** What a text of each form looks like. */
const FORMS: Readonly<Record<string, string>> = {
  [DURATION_PATTERN]: 'a duration: 14d, 36h or P14D',
  [SHARE_PATTERN]: 'a share: 10%',
  [RATE_PATTERN]: 'a rate: 100/h, 2/m',
  [TIME_ZONE_PATTERN]: 'a time zone: America/New_York',
  [FROM_PATTERN]: 'a time of day: 09:30',
  [TO_PATTERN]: 'a time of day: 17:00, or 24:00',
  [DATES_PATTERN]: 'a day: 2026-12-31; a range of days: 2026-12-20/2027-01-03; or a day of every year: 12-31',
  [POLICY_NAME_PATTERN]: 'a name of a–z, 0–9 and dashes',
  [CLIENT_ID_PATTERN]: 'a client id: cli_…',
  [`^\\*$|${ScopePattern}`]: 'a scope: trade:*',
  [LABEL_VALUE_PATTERN]: 'a word without spaces, commas and =',
}

/** One policy, as JSON or YAML gives it. */
export function checkPolicy(value: unknown): Checked<Policy> {
  const name = (value as { name?: unknown } | null)?.name
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { ok: false, flaws: [{ path: '', message: 'must be a policy: name, select, period…' }] }
  const flaws = schemaFlaws(POLICY, Policy, value)
  if (flaws.length === 0) flaws.push(...unsound(value as Policy))
  if (flaws.length === 0) return { ok: true, value: value as Policy }
  const named = typeof name === 'string' && new RegExp(POLICY_NAME_PATTERN).test(name) ? { policy: name } : {}
  return { ok: false, flaws: flaws.map((flaw) => ({ ...named, ...flaw })) }
}

/** A whole file; no two policies of it have the same name. */
export function checkPolicyFile(value: unknown): Checked<readonly Policy[]> {
  const listed = (value as { policies?: unknown } | null)?.policies
  if (!Array.isArray(listed))
    return { ok: false, flaws: [{ path: '/policies', message: 'must be there, with a list of policies' }] }
  const own = schemaFlaws(FILE, PolicyFile, value).filter(({ path }) => !path.startsWith('/policies/'))
  const names = new Map<unknown, number>()
  const flaws: PolicyFlaw[] = [...own]
  for (const [i, policy] of listed.entries()) {
    const checked = checkPolicy(policy)
    const at = `/policies/${i}`
    if (!checked.ok) flaws.push(...checked.flaws.map((flaw) => ({ ...flaw, path: at + flaw.path })))
    const name = (policy as { name?: unknown } | null)?.name
    const before = names.get(name)
    if (typeof name === 'string' && before !== undefined) {
      const message = `policy ${before + 1} in the file has this name too: give each its own`
      flaws.push({ policy: name, path: `${at}/name`, message })
    }
    names.set(name, i)
  }
  return flaws.length === 0 ? { ok: true, value: listed as readonly Policy[] } : { ok: false, flaws }
}

interface SchemaNode {
  readonly type?: string
  readonly pattern?: string
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly items?: SchemaNode
  readonly anyOf?: readonly SchemaNode[]
}

function schemaFlaws(validator: Validator, schema: Type.TSchema, value: unknown): PolicyFlaw[] {
  if (validator.Check(value)) return []
  const errors = validator.Errors(value) as SchemaError[]
  // Of several things that a field may be, all are said at once.
  const unions = errors.filter(({ keyword }) => keyword === 'anyOf').map(({ schemaPath }) => `${schemaPath}/anyOf/`)
  return errors
    .filter(({ schemaPath }) => !unions.some((union) => schemaPath.startsWith(union)))
    .flatMap((error) => {
      const { keyword, instancePath: path } = error
      const { pattern } = error.params as { pattern?: string }
      const form = formOf(pattern === undefined ? nodeAt(schema as SchemaNode, path) : { pattern })
      if (form !== undefined && ['pattern', 'anyOf', 'type'].includes(keyword)) return [{ path, message: `must be ${form}` }]
      if (keyword === 'const')
        return [{ path, message: `can only be ${JSON.stringify((error.params as { allowedValue?: unknown }).allowedValue)}` }]
      return explain(error)
    })
}

function nodeAt(schema: SchemaNode, path: string): SchemaNode | undefined {
  let at: SchemaNode | undefined = schema
  for (const part of path.split('/').slice(1)) at = at?.properties?.[part] ?? at?.items
  return at
}

function formOf(node: SchemaNode | undefined): string | undefined {
  if (node?.anyOf !== undefined) {
    const forms = node.anyOf.filter(({ type }) => type !== 'array').map((each) => formOf(each) ?? 'something else')
    return forms.join(', or ') + (node.anyOf.some(({ type }) => type === 'array') ? ', or a list of such' : '')
  }
  if (node?.pattern !== undefined) return FORMS[node.pattern]
  if (node?.enum !== undefined) return `one of: ${node.enum.join(', ')}`
  if (node?.const !== undefined) return String(node.const)
  return node?.type === 'integer' ? 'a whole number' : undefined
}

const MOST_MS = 366 * 86_400_000

/** What no schema can say. */
function unsound(policy: Policy): FieldFlaw[] {
  const flaws = [...durationFlaws(policy), ...selectFlaws(policy), ...waveFlaws(policy)]
  for (const [i, blackout] of (policy.blackout ?? []).entries())
    flaws.push(...blackoutFlaws(blackout).map(({ path, message }) => ({ path: `/blackout/${i}${path}`, message })))
  for (const [i, part] of (policy.reminders ?? []).entries()) {
    const share = parseShare(part)
    if (share <= 0 || share >= 1) flaws.push({ path: `/reminders/${i}`, message: 'must be more than 0% and less than 100%' })
  }
  if (policy.onDeadline === 'force' && policy.approvals === 'deactivating')
    flaws.push({ path: '/approvals', message: 'force would not wait for it: take another onDeadline, or leave approvals out' })
  return flaws
}

function selectFlaws({ select, all }: Policy): FieldFlaw[] {
  const empty = select === undefined || isEmptySelector(select)
  if (empty && all === undefined) {
    return [{ path: '/select', message: 'would select every credential there is: say which, or write "all: true" in its place' }]
  }
  return select !== undefined && all !== undefined
    ? [{ path: '/all', message: 'does not go together with select: keep one of them' }]
    : []
}

const MAY_BE_ZERO = ['quietPeriod', 'regretWindow', 'receiptWait', 'onLeak'] as const
const NOT_ZERO = ['period', 'expiry', 'overlap', 'extendBy'] as const

function durationFlaws(policy: Policy): FieldFlaw[] {
  const flaws: FieldFlaw[] = []
  for (const field of [...NOT_ZERO, ...MAY_BE_ZERO]) {
    const text = policy[field]
    if (text === undefined || text === 'atOnce') continue
    try {
      const ms = parseDuration(text)
      const mayBeLong = field === 'period' || field === 'expiry'
      if (ms === 0 && (NOT_ZERO as readonly string[]).includes(field))
        flaws.push({ path: `/${field}`, message: 'must be longer than zero' })
      if (field === 'receiptWait' && ms > LONGEST_RECEIPT_WAIT_MS)
        flaws.push({
          path: '/receiptWait',
          message: 'must not be longer than 12h: people have to hear of a gateway that is silent',
        })
      else if (ms > MOST_MS && !mayBeLong) flaws.push({ path: `/${field}`, message: 'must not be longer than 366d' })
    } catch (error) {
      flaws.push({ path: `/${field}`, message: (error as RangeError).message })
    }
  }
  if (flaws.length > 0) return flaws

  const { periodMs, rotation } = termsOf(policy)
  const period = `the period of ${formatDuration(periodMs)}`
  if (periodMs < SHORTEST_PERIOD_MS) flaws.push({ path: '/period', message: 'must be 1d or more' })
  if (periodMs > LONGEST_PERIOD_MS && policy.allowLongPeriod !== true)
    flaws.push({ path: '/period', message: 'must be 180d or less, unless the policy says "allowLongPeriod: true"' })
  if (periodMs > LONGEST_ALLOWED_PERIOD_MS)
    flaws.push({ path: '/period', message: `must be ${formatDuration(LONGEST_ALLOWED_PERIOD_MS)} or less` })
  if (rotation.overlapMs >= periodMs)
    flaws.push({ path: '/overlap', message: `must be shorter than ${period}: the key would be due again before it is in use` })
  if (rotation.quietPeriodMs > rotation.overlapMs) {
    const message = `must not be longer than the overlap of ${formatDuration(rotation.overlapMs)}: the old key could never be quiet long enough`
    flaws.push({ path: '/quietPeriod', message })
  }
  if (rotation.expiryMs !== undefined && rotation.expiryMs < periodMs) {
    const unless = policy.period === undefined ? ` (${formatDuration(DEFAULT_PERIOD_MS)} unless given)` : ''
    flaws.push({
      path: '/expiry',
      message: `must not be shorter than ${period}${unless}: keys would expire before they are replaced`,
    })
  }
  return flaws
}

function waveFlaws({ waves = [] }: Policy): FieldFlaw[] {
  let taken = 0
  const flaws: FieldFlaw[] = []
  for (const [i, { size }] of waves.entries()) {
    const path = `/waves/${i}/size`
    const share = typeof size === 'string' ? parseShare(size) : 0
    if (typeof size === 'string' && share === 0) flaws.push({ path, message: 'must be more than 0%' })
    else if (taken >= 1) flaws.push({ path, message: 'nothing is left for this wave: the ones before it take 100%' })
    taken += share
  }
  return flaws
}

function blackoutFlaws({ timeZone, days, dates = [], holidays = [], from, to }: Blackout): FieldFlaw[] {
  const flaws: FieldFlaw[] = []
  if (!isTimeZone(timeZone))
    flaws.push({
      path: '/timeZone',
      message: `"${timeZone}" is not a time zone: write one of the IANA database, like America/New_York`,
    })
  for (const [field, list] of [
    ['dates', dates],
    ['holidays', holidays],
  ] as const) {
    for (const [i, text] of list.entries()) {
      const message = dateFlaw(text)
      if (message !== undefined) flaws.push({ path: `/${field}/${i}`, message })
    }
  }
  if (days === undefined && dates.length + holidays.length === 0 && from === undefined && to === undefined)
    flaws.push({ path: '', message: 'would cover every hour there is: say which days, dates, holidays or times' })
  if ((from ?? '00:00') === (to ?? '24:00'))
    flaws.push({ path: '/to', message: 'must not be the same as from: leave both out for whole days' })
  return flaws
}

/** Whether this machine's copy of the IANA database has it. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

function dateFlaw(text: string): string | undefined {
  const [first = '', last] = text.split('/')
  // A day of every year: the 29th of February is one, now and then.
  const missing = [first, last].find((day) => day !== undefined && !isDate(day.length === 5 ? `2024-${day}` : day))
  if (missing !== undefined) return `there is no ${missing}`
  return last !== undefined && last < first ? `ends before it begins: write ${last}/${first}` : undefined
}

function isDate(text: string): boolean {
  const time = Date.parse(`${text}T00:00:00Z`)
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(text)
}
