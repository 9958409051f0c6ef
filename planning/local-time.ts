/**
 * What a wall clock shows where people are, in UTC. A local day is its number since 1970-01-01, so that days can be counted.
 * Where clocks are put forward a local time may not exist, and where they are put back it comes twice.
 */
const MINUTE = 60_000
const DAY = 86_400_000
const WEEK = 7 * DAY

const formats = new Map<string, Intl.DateTimeFormat>()

function formatOf(timeZone: string): Intl.DateTimeFormat {
  const known = formats.get(timeZone)
  if (known !== undefined) return known
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  formats.set(timeZone, format)
  return format
}

/** Offsets of whole weeks, where clocks are not changed within the week: asking the database takes a while. */
const weeks = new Map<string, Map<number, number | 'changes'>>()

/** What has to be added to UTC, in milliseconds, at a time since 1970. */
export function offsetAt(timeZone: string, at: number): number {
  const week = Math.floor(at / WEEK)
  const known = weeks.get(timeZone) ?? new Map<number, number | 'changes'>()
  weeks.set(timeZone, known)
  let offset = known.get(week)
  if (offset === undefined) {
    offset = lookUp(timeZone, week * WEEK)
    if (lookUp(timeZone, (week + 1) * WEEK) !== offset) offset = 'changes'
    known.set(week, offset)
  }
  return offset === 'changes' ? lookUp(timeZone, at) : offset
}

function lookUp(timeZone: string, at: number): number {
  const seconds = Math.floor(at / 1_000) * 1_000
  const [month, day, year, hour, minute, second] = formatOf(timeZone).format(seconds).match(/\d+/g)?.map(Number) ?? []
  return Date.UTC(year ?? 0, (month ?? 1) - 1, day, hour, minute, second) - seconds
}

export const localDayAt = (timeZone: string, at: number): number => Math.floor((at + offsetAt(timeZone, at)) / DAY)

/** 0 is Monday. */
export const weekdayOf = (day: number): number => (((day + 3) % 7) + 7) % 7

/** `2026-12-31` → its number. */
export const dayOf = (date: string): number => Date.parse(`${date}T00:00:00Z`) / DAY

/** `12-31` of a day. */
export const monthAndDayOf = (day: number): string => new Date(day * DAY).toISOString().slice(5, 10)

/**
 * When the clocks of a zone show a time: `minutes` after the midnight that `day` begins with. A time that comes twice is the
 * first or the second, as asked; one that does not exist is the moment in which it is passed over.
 */
export function instantOf(timeZone: string, day: number, minutes: number, which: 'first' | 'second'): number {
  const shown = day * DAY + minutes * MINUTE
  const [before, after] = [offsetAt(timeZone, shown - DAY), offsetAt(timeZone, shown + DAY)]
  const fits = [...new Set([before, after])].filter((offset) => offsetAt(timeZone, shown - offset) === offset)
  if (fits.length > 0) return shown - (which === 'first' ? Math.max(...fits) : Math.min(...fits))
  return transitionBetween(timeZone, shown - Math.max(before, after), shown - Math.min(before, after))
}

/** The moment, to the second, at which clocks are changed between two times. */
function transitionBetween(timeZone: string, from: number, to: number): number {
  const offset = offsetAt(timeZone, from)
  let [low, high] = [Math.floor(from / 1_000), Math.ceil(to / 1_000)]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (offsetAt(timeZone, middle * 1_000) === offset) low = middle
    else high = middle
  }
  return high * 1_000
}
