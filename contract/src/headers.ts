/** Header fields between clients, gateways and the API behind them. */
import { type InnerList, type Item, isInnerList, parseDictionary, serializeDictionary } from 'structured-headers'

export const HEADERS = {
  rotation: 'keyturn-key-rotation',
  client: 'keyturn-client',
  credential: 'keyturn-credential',
  keyId: 'keyturn-key-id',
  scopes: 'keyturn-scopes',
} as const

/** What a gateway adds to responses to old-key requests. */
export interface RotationNotice {
  readonly sunset: Date
  readonly successor: number
}

/** `sunset=@1767225600, successor=2`: an RFC 9651 dictionary. Its dates are whole seconds: what is over is cut off. */
export const formatRotationNotice = (notice: RotationNotice): string =>
  serializeDictionary({ sunset: notice.sunset, successor: notice.successor })

/** Marks what was a date; see `withoutDates`. */
const DATE = 'keyturn-date'

/**
 * structured-headers 2.1 reads a date only at the very end of a field: at anything after the digits, be it the comma before the
 * next member, it throws. Integers it reads everywhere, so `@1767225600` becomes the integer with a parameter that says it was a
 * date. `@` stands for nothing else outside of strings.
 */
const withoutDates = (value: string): string =>
  value.replace(/"(?:[^"\\]|\\.)*"|@(-?[0-9]{1,15})(?![0-9])/g, (all: string, seconds: string | undefined) =>
    seconds === undefined ? all : `${seconds};${DATE}`,
  )

/** Reads the header; nothing when it lacks a sunset time or a successor. Members it does not know are ignored, as RFC 9651 wants. */
export function parseRotationNotice(value: string): RotationNotice | undefined {
  let fields: Map<string, Item | InnerList>
  try {
    fields = parseDictionary(withoutDates(value))
  } catch {
    return undefined
  }
  const item = (name: string): Item | undefined => {
    const member = fields.get(name)
    return member === undefined || isInnerList(member) ? undefined : member
  }
  const [seconds, parameters] = item('sunset') ?? []
  const [successor, marks] = item('successor') ?? []
  if (typeof seconds !== 'number' || parameters?.has(DATE) !== true) return undefined
  if (typeof successor !== 'number' || marks?.has(DATE) === true || !Number.isInteger(successor) || successor < 2)
    return undefined
  const sunset = new Date(seconds * 1000)
  return Number.isNaN(sunset.getTime()) ? undefined : { sunset, successor }
}
