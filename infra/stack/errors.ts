/** Something the local stack needs is missing or did not start. The message says what to do. */
export class StackError extends Error {
  override readonly name = 'StackError'
}
