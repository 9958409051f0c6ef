/** Rotations that Temporal still runs and the registry knows no more: it was restored from a backup that is older than they are. */
import type { CredentialId, RotationId, RotationProgress } from '@keyturn/contract'
import { Client, Connection } from '@temporalio/client'
import type { ConfigOf } from '../infra/config.ts'
import type { Database } from '../registry/database.ts'
import { openRotationOf } from '../registry/rotations.ts'

const WORKFLOW_ID = /^rotation\/(crd_[0-9A-Za-z]{16})$/

export interface LostRotation {
  readonly credentialId: CredentialId
  readonly rotationId?: RotationId
}

/**
 * Ends them, so that they stand in nobody's way: the next trigger of such a credential would else join a rotation that can do nothing.
 * One that the registry has open goes on.
 */
export async function endLostRotations(
  { temporalAddress, temporalNamespace, taskQueue }: ConfigOf<'temporal'>,
  db: Database,
  reason: string,
): Promise<LostRotation[]> {
  const connection = await Connection.connect({ address: temporalAddress })
  try {
    const client = new Client({ connection, namespace: temporalNamespace })
    const lost: LostRotation[] = []
    const query = `WorkflowType = 'rotateCredential' AND ExecutionStatus = 'Running' AND TaskQueue = '${taskQueue}'`
    for await (const { workflowId } of client.workflow.list({ query })) {
      const credentialId = WORKFLOW_ID.exec(workflowId)?.[1] as CredentialId | undefined
      if (credentialId === undefined) continue
      const handle = client.workflow.getHandle(workflowId)
      const open = await openRotationOf(db, credentialId)
      // A worker has to answer; without one, only a credential that is in no rotation at all is certain.
      const running = await handle.query<RotationProgress>('progress').catch(() => undefined)
      if (open !== undefined && (running === undefined || running.rotationId === open.rotationId)) continue
      await handle.terminate(`the registry does not know this rotation any more: ${reason}`)
      lost.push({ credentialId, ...(running === undefined ? {} : { rotationId: running.rotationId }) })
    }
    return lost
  } finally {
    await connection.close()
  }
}
