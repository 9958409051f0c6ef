/** Sequence numbers of one key: rising, with a small window for requests that overtake each other on the way (as in RFC 4303 section 3.4.3). */

/** The highest number so far, and which of the 32 numbers up to it were used: bit 0 is the highest itself. */
export interface SequenceState {
  readonly top: number
  readonly used: number
}

/** Bits at hand. */
export const MOST_REORDER = 31

/**
 * The state after a number; nothing when it was used before, or is more than `reorder` behind the highest.
 * @param reorder 0: each number is higher than the one before
 */
export function advance(state: SequenceState | undefined, sequence: number, reorder: number): SequenceState | undefined {
  if (!Number.isSafeInteger(sequence) || sequence < 0) return undefined
  if (state === undefined) return { top: sequence, used: 1 }
  const ahead = sequence - state.top
  if (ahead > 0) return { top: sequence, used: ahead > MOST_REORDER ? 1 : (state.used << ahead) | 1 }
  const bit = 1 << -ahead
  return -ahead > reorder || (state.used & bit) !== 0 ? undefined : { top: state.top, used: state.used | bit }
}
