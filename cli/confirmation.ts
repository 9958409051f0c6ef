import { Failure, UsageFailure } from './failure.ts'

/**
 * Has a count typed by whoever is to know what they do.
 * @param of what is counted, and what becomes of it: "keys to import them"
 * @param yes it was said before: nobody is asked
 * @throws UsageFailure where nobody can type; Failure when something else is typed
 */
export async function confirmCount(count: number, of: string, yes: boolean | undefined): Promise<void> {
  if (yes === true) return
  if (process.stdin.isTTY !== true)
    throw new UsageFailure('Nobody is here to confirm this', 'Add --yes where the command is not typed by a person.')
  const { createInterface } = await import('node:readline/promises')
  const ask = createInterface({ input: process.stdin, output: process.stderr })
  const typed = await ask.question(`Type the number of ${of} now: `)
  ask.close()
  if (typed.trim() !== String(count)) throw new Failure(`${count} was to be typed`, 'Nothing was done.')
}
