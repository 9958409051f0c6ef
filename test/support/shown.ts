import { shownSha256, type Verifier } from '@keyturn/contract'

/** The hash of a key whose token is shown. */
export function sha256Of({ verifier }: { verifier: Verifier }): string {
  const sha256 = shownSha256(verifier)
  if (sha256 === undefined) throw new Error(`a ${verifier.kind} key shows no token`)
  return sha256
}
