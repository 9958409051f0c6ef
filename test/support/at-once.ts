/** A token that is shown is decided on without waiting for anything. */
export function atOnce<T>(answer: T | Promise<T>): T {
  if (answer instanceof Promise) throw new Error('the decision has to be waited for')
  return answer
}
