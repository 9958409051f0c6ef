/** One run of a policy: starts the rotations that are due, each at its time. A Temporal Schedule starts a run every few minutes. */

import { rotationWorkflowId } from '@keyturn/contract/ids'
import {
  type PlanCursor,
  type PlannedStart,
  POLICY_CHANGED,
  POLICY_RUN_MS,
  type PolicyPlan,
  type PolicyRunReport,
  type RunPolicyInput,
} from '@keyturn/contract/policy-run'
import { defineSearchAttributeKey, WorkflowExecutionAlreadyStartedError } from '@temporalio/common'
import { condition, continueAsNew, defineSignal, ParentClosePolicy, setHandler, startChild } from '@temporalio/workflow'
import { policies } from './proxies.ts'
import { rotateCredential } from './rotate-credential.ts'

const CLIENT = defineSearchAttributeKey('KeyturnClient', 'KEYWORD')
const ENVIRONMENT = defineSearchAttributeKey('KeyturnEnvironment', 'KEYWORD')
const TRIGGER = defineSearchAttributeKey('KeyturnTrigger', 'KEYWORD')

export const policyChangedSignal = defineSignal(POLICY_CHANGED)

/** What is planned for the same second is started together. */
const TOGETHER_MS = 1_000
/** A plan that is carried out later than this is made anew: a blackout may have begun, or the policy have changed. */
const LATE_MS = 2 * 60_000

/** Plans a page, starts what is on it, and goes on as a new run, so that its history stays short. */
export async function runPolicy(input: RunPolicyInput): Promise<PolicyRunReport> {
  let changed = false
  setHandler(policyChangedSignal, () => {
    changed = true
  })
  const { policy, until = Date.now() + POLICY_RUN_MS, before, after } = input
  let { started, joined, lastStartAt } = before ?? { started: 0, joined: 0, lastStartAt: undefined }
  const last = () => (lastStartAt === undefined ? {} : { lastStartAt })
  const again = (next: { after?: PlanCursor } = {}) =>
    continueAsNew<typeof runPolicy>({ policy, until, before: { started, joined, ended: 'done', ...last() }, ...next })

  const cursor = after === undefined ? {} : { after }
  const plan = await policies.planPolicyRun({ policy, at: Date.now(), until, ...last(), ...cursor })
  for (const batch of together(plan.starts)) {
    const at = batch[0]?.at ?? 0
    if (at > Date.now()) await condition(() => changed, at - Date.now())
    if (changed || Date.now() - at > LATE_MS) return again()
    const outcomes = await Promise.all(batch.map((start) => startRotation(start, plan)))
    started += outcomes.filter((outcome) => outcome === 'started').length
    joined += outcomes.filter((outcome) => outcome === 'joined').length
    lastStartAt = Date.now()
  }
  if (Date.now() < until) {
    if (changed) return again()
    if (plan.next !== undefined) return again({ after: plan.next })
  }
  return { started, joined, ended: plan.outcome, ...last() }
}

function together(starts: readonly PlannedStart[]): PlannedStart[][] {
  const batches: PlannedStart[][] = []
  for (const start of starts) {
    const batch = batches.at(-1)
    if (batch?.[0] !== undefined && start.at - batch[0].at < TOGETHER_MS) batch.push(start)
    else batches.push([start])
  }
  return batches
}

/** The rotation goes on by itself when this run has ended. One that runs already is what was wanted. */
async function startRotation(start: PlannedStart, plan: PolicyPlan): Promise<'started' | 'joined'> {
  const { credentialId, clientId, environment, rotationId, wave } = start
  const { rotation: policy, cycle, reason } = plan
  if (policy === undefined) throw new Error('a plan with something to start says how')
  const actor = `policy:${policy.name ?? ''}`
  try {
    await startChild(rotateCredential, {
      workflowId: rotationWorkflowId(credentialId),
      parentClosePolicy: ParentClosePolicy.ABANDON,
      args: [{ credentialId, request: { rotationId, trigger: 'schedule', reason, actor, policy, scheduled: { cycle, wave } } }],
      typedSearchAttributes: [
        { key: CLIENT, value: clientId },
        { key: ENVIRONMENT, value: environment },
        { key: TRIGGER, value: 'schedule' },
      ],
    })
    return 'started'
  } catch (error) {
    if (error instanceof WorkflowExecutionAlreadyStartedError) return 'joined'
    throw error
  }
}
