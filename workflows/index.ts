/** The Temporal workflows, one file each. Deterministic: they import the contract, and types of the activities. */
export { deliverMessage } from './deliver-message.ts'
export { respondToLeak } from './respond-to-leak.ts'
export { rollOverFleet } from './roll-over-fleet.ts'
export { rotateCredential } from './rotate-credential.ts'
export { runPolicy } from './run-policy.ts'
export { tellOfSecondClaim } from './tell-of-second-claim.ts'
