import type { ApprovalStage } from '@keyturn/contract/rotation'
import type { Rotation } from '../rotation.ts'

/**
 * Holds a rotation that the schedule has started until a person approves, where its policy asks for that before this stage. An
 * approval lets it go on and is no evidence: an old key that is still used stays.
 * @returns whether it was held
 */
export async function waitForApproval(rotation: Rotation, stage: ApprovalStage): Promise<boolean> {
  const { policy, request, approved, warrant, newKey } = rotation
  const asked = policy.approvals === stage && request.trigger === 'schedule' && (stage !== 'introducing' || newKey === undefined)
  if (!asked || approved !== undefined || warrant !== undefined) return false
  const reason = `the policy ${policy.name ?? ''} asks for a person's approval before ${stage}: approve or roll back`
  await rotation.hold('approval', reason, () => rotation.approved !== undefined || rotation.warrant !== undefined)
  return true
}
