/** The Temporal workflows, one file each. Deterministic: they import the contract, and types of the activities. */
export { respondToLeak } from './respond-to-leak.ts'
export { rollOverFleet } from './roll-over-fleet.ts'
export { rotateCredential } from './rotate-credential.ts'
export { runPolicy } from './run-policy.ts'
