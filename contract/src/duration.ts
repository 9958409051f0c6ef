/** Durations as people write them: ISO 8601 (`P14D`, `PT90S`) or short (`14d`, `90s`, `1h30m`). Everything inside is milliseconds. */
const MS = { w: 604_800_000, d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000, ms: 1 } as const

/** No duration is longer: 100 years, so that any time of ours plus any duration is still a time. */
export const MAX_DURATION_MS = 36_500 * MS.d

const SHORT = /^(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?$/
const ISO = /^P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d{1,3})?)S)?)?$/

/** What a duration looks like, for JSON Schema. `parseDuration` decides. */
export const DURATION_PATTERN =
  '^(P(?=.)([0-9]+W)?([0-9]+D)?(T(?=.)([0-9]+H)?([0-9]+M)?([0-9]+([.][0-9]{1,3})?S)?)?|(?=.)([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$'

const sum = (parts: readonly (string | undefined)[], units: readonly number[]): number =>
  parts.reduce((total, part, i) => total + Math.round(Number(part ?? 0) * (units[i] ?? 0)), 0)

const within = (ms: number): number => {
  if (ms > MAX_DURATION_MS) throw new RangeError('a duration is at most 36500d')
  return ms
}

/**
 * Milliseconds of a duration. Months and years are refused: they have no fixed length.
 * @throws RangeError that says what a duration looks like, or that this one is longer than `MAX_DURATION_MS`
 */
export function parseDuration(text: string): number {
  const iso = ISO.exec(text)
  if (iso !== null && !text.endsWith('P') && !text.endsWith('T')) return within(sum(iso.slice(1), [MS.w, MS.d, MS.h, MS.m, MS.s]))
  const short = text === '' ? null : SHORT.exec(text)
  if (short !== null) return within(sum(short.slice(1), [MS.w, MS.d, MS.h, MS.m, MS.s, MS.ms]))
  throw new RangeError(`"${text.slice(0, 40)}" is not a duration: write 14d, 1h30m, 90s or ISO 8601 like P14D, PT90S`)
}

/**
 * The short form, largest unit first: 5_400_000 → `1h30m`, 0 → `0s`. What lies before now gets a sign (`-5m`), for people to
 * read: `parseDuration` takes no sign.
 * @throws RangeError when it is not a finite number
 */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) throw new RangeError('a duration is a finite number of milliseconds')
  let rest = Math.round(ms)
  if (rest === 0) return '0s'
  if (rest < 0) return `-${formatDuration(-rest)}`
  let text = ''
  for (const unit of ['d', 'h', 'm', 's', 'ms'] as const) {
    const count = Math.floor(rest / MS[unit])
    rest -= count * MS[unit]
    if (count > 0) text += `${count}${unit}`
  }
  return text
}
