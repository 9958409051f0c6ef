/** What options take, checked before anything is asked of the API. */
import { parseDuration } from '@keyturn/contract/duration'
import { InvalidArgumentError } from 'commander'

export function duration(text: string): string {
  try {
    parseDuration(text)
  } catch (error) {
    throw new InvalidArgumentError(`${(error as RangeError).message}.`)
  }
  return text
}

export function wholeNumber(text: string): string {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('Give a whole number.')
  return text
}

/** For an option that may be given more than once. */
export const collect = (text: string, before: readonly string[] = []): string[] => [...before, text]

/** The same, where each may hold more than one. */
export const collectWords = (text: string, before: readonly string[] = []): string[] => [
  ...before,
  ...text.split(/[\s,]+/).filter((word) => word !== ''),
]
