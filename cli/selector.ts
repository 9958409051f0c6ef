import type { Selector } from '@keyturn/contract/selector'
import { UsageFailure } from './failure.ts'

/** @throws UsageFailure that says what a selector looks like */
export async function readSelector(text: string): Promise<Selector> {
  const { parseSelector } = await import('@keyturn/contract/selector')
  try {
    return parseSelector(text)
  } catch (error) {
    if (error instanceof RangeError) throw new UsageFailure('This is not a selector', error.message)
    throw error
  }
}
