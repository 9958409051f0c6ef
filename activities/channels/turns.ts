/** So many at a time. */
export interface Turns {
  /** @returns what ends the turn; nothing when none came within `patienceMs` */
  take(patienceMs: number): Promise<(() => void) | undefined>
}

export function createTurns(atOnce: number): Turns {
  let free = atOnce
  const waiting: (() => void)[] = []
  const end = (): void => {
    const next = waiting.shift()
    if (next === undefined) free += 1
    else next()
  }
  return {
    async take(patienceMs) {
      if (free > 0) {
        free -= 1
        return end
      }
      return new Promise((resolve) => {
        const begin = (): void => {
          clearTimeout(late)
          resolve(end)
        }
        const late = setTimeout(() => {
          waiting.splice(waiting.indexOf(begin), 1)
          resolve(undefined)
        }, patienceMs)
        waiting.push(begin)
      })
    },
  }
}
