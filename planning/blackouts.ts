/** When no rotation may be started: the blackouts of a policy as stretches of time in UTC. */
import { type Blackout, DAY_NAMES } from '@keyturn/contract'
import { dayOf, instantOf, localDayAt, monthAndDayOf, weekdayOf } from './local-time.ts'

/** From a time (included) to another (not included), in milliseconds of the epoch. */
export interface Span {
  readonly from: number
  readonly to: number
}

const MINUTES_OF_DAY = 1_440

/** The closed stretches that touch a time range, in their order; none touches another. */
export function closedSpans(blackouts: readonly Blackout[], range: Span): Span[] {
  return merged(blackouts.flatMap((blackout) => [...spansOf(blackout, range)]))
}

function* spansOf({ timeZone, days, dates, holidays, from, to }: Blackout, range: Span): Generator<Span> {
  const isHoliday = matcher(holidays ?? [])
  const isDate = matcher(dates ?? [])
  const isDay = new Set(days?.map((name) => DAY_NAMES.indexOf(name)))
  // Times alone are meant for every day.
  const everyDay = days === undefined && dates === undefined && (from !== undefined || to !== undefined)
  const [begins, ends] = [minutesOf(from ?? '00:00'), minutesOf(to ?? '24:00')]
  const last = localDayAt(timeZone, range.to) + 1
  for (let day = localDayAt(timeZone, range.from) - 1; day <= last; day++) {
    const whole = isHoliday(day)
    if (!whole && !everyDay && !isDate(day) && !isDay.has(weekdayOf(day))) continue
    const [first, until] = whole ? [0, MINUTES_OF_DAY] : [begins, ends > begins ? ends : ends + MINUTES_OF_DAY]
    // When in doubt it is closed.
    const span = {
      from: instantOf(timeZone, day + Math.floor(first / MINUTES_OF_DAY), first % MINUTES_OF_DAY, 'first'),
      to: instantOf(timeZone, day + Math.floor(until / MINUTES_OF_DAY), until % MINUTES_OF_DAY, 'second'),
    }
    if (span.from < range.to && span.to > range.from && span.from < span.to) yield span
  }
}

const minutesOf = (time: string): number => Number(time.slice(0, 2)) * 60 + Number(time.slice(3))

/** Whether a local day is one of those listed: `2026-12-31`, `2026-12-20/2027-01-03`, or `12-31` of every year. */
function matcher(list: readonly string[]): (day: number) => boolean {
  const yearly = new Set(list.filter((text) => text.length === 5))
  const ranges = list
    .filter((text) => text.length > 5)
    .map((text) => {
      const [first = '', last = first] = text.split('/')
      return [dayOf(first), dayOf(last)] as const
    })
  return (day) =>
    ranges.some(([first, last]) => first <= day && day <= last) || (yearly.size > 0 && yearly.has(monthAndDayOf(day)))
}

function merged(spans: Span[]): Span[] {
  const result: Span[] = []
  for (const span of spans.sort((a, b) => a.from - b.from)) {
    const last = result.at(-1)
    if (last === undefined || span.from > last.to) result.push(span)
    else if (span.to > last.to) result[result.length - 1] = { from: last.from, to: span.to }
  }
  return result
}
