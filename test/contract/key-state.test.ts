import { KEY_STATES, KEY_TRANSITIONS, type KeyState, mayFollow } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { vectors } from './vectors.ts'

const states = vectors<{ states: KeyState[]; accepts: Record<KeyState, boolean>; mayFollow: Record<KeyState, KeyState[]> }>(
  'key-states',
)

/** Every state that can be reached, in any number of steps. */
function closure(from: KeyState): Set<KeyState> {
  const reached = new Set<KeyState>()
  const visit = (state: KeyState): void => {
    for (const next of KEY_STATES.filter((to) => mayFollow(state, to) && !reached.has(to))) {
      reached.add(next)
      visit(next)
    }
  }
  visit(from)
  return reached
}

describe('key states', () => {
  test('the transitions are those of the vectors, and no others', () => {
    expect([...KEY_STATES]).toEqual(states.states)
    for (const from of KEY_STATES) {
      for (const to of KEY_STATES) expect(mayFollow(from, to), `${from} → ${to}`).toBe(states.mayFollow[from].includes(to))
    }
    expect(KEY_TRANSITIONS).toEqual(states.mayFollow)
  })

  test('G9: from compromised only destroyed can be reached, in any number of steps', () => {
    expect([...closure('compromised')]).toEqual(['destroyed'])
    expect([...closure('destroyed')]).toEqual([])
  })

  test('G9: no walk over legal transitions comes back from compromised', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...KEY_STATES), { maxLength: 30 }), (wishes) => {
        let state: KeyState = 'pre-activation'
        let compromised = false
        for (const wish of wishes) {
          if (mayFollow(state, wish)) state = wish
          compromised ||= state === 'compromised'
          if (compromised) expect(['compromised', 'destroyed']).toContain(state)
        }
      }),
    )
  })

  test('nothing goes back to pre-activation, and no state follows itself', () => {
    for (const state of KEY_STATES) {
      expect(closure(state).has('pre-activation')).toBe(false)
      expect(mayFollow(state, state)).toBe(false)
    }
  })

  test('only an active key is accepted', () => {
    expect(KEY_STATES.filter((state) => states.accepts[state])).toEqual(['active'])
  })
})
