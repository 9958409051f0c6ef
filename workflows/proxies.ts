/** The activities as the workflow calls them: each group with the time-outs and retries that fit it. Retries never give up where giving up would leave a rotation half done. */
import { receiptsTaskQueue } from '@keyturn/contract/rotation'
import { proxyActivities, workflowInfo } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'

/** Short transactions on the registry, each idempotent: tried until PostgreSQL answers. */
export const records = proxyActivities<
  Pick<Activities, 'openRotation' | 'enterStage' | 'takeOver' | 'extendOverlap' | 'startMonitoring' | 'readEvidence'>
>({
  startToCloseTimeout: '10s',
  retry: { initialInterval: '200ms', backoffCoefficient: 2, maximumInterval: '5s' },
})

/** Changes of keys for a leak, and their publication. The retries are the outbox. */
export const leaks = proxyActivities<Pick<Activities, 'containLeak'>>({
  startToCloseTimeout: '30s',
  retry: { initialInterval: '100ms', backoffCoefficient: 2, maximumInterval: '5s' },
})

/** Changes of keys: as above, in transactions that may wait for a lock. */
export const keys = proxyActivities<
  Pick<
    Activities,
    | 'introduceKey'
    | 'deprecateKey'
    | 'deactivateKey'
    | 'reinstateKey'
    | 'retireNewKey'
    | 'compromiseKey'
    | 'killNewKey'
    | 'giveUpDelivery'
  >
>({
  startToCloseTimeout: '15s',
  retry: { initialInterval: '100ms', backoffCoefficient: 2, maximumInterval: '5s' },
})

/** Writing a new key into its client's store: for a quarter of an hour, unless the store refuses. */
export const stores = proxyActivities<Pick<Activities, 'deliverKey'>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '15 minutes',
  heartbeatTimeout: '15s',
  retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '1 minute' },
})

/** The same where nobody can wait: what comes of it is of no matter to the rotation. */
export const storesAtOnce = proxyActivities<Pick<Activities, 'deliverKey' | 'takeBackKey'>>({
  startToCloseTimeout: '15s',
  scheduleToCloseTimeout: '30s',
  heartbeatTimeout: '10s',
  retry: { initialInterval: '500ms', backoffCoefficient: 2, maximumInterval: '5s' },
})

/** Publishing, and the wait for the receipt. The retries are the outbox, so they start fast and never end. */
export const propagation = proxyActivities<Pick<Activities, 'propagate'>>({
  startToCloseTimeout: '1 day',
  heartbeatTimeout: '5s',
  retry: { initialInterval: '100ms', backoffCoefficient: 2, maximumInterval: '2s' },
})

/** Waits for gateways, which may stay away for weeks, on a task queue of their own: they must not take the places of the rest. */
export const receipts = proxyActivities<Pick<Activities, 'awaitReceipt' | 'awaitLeakReceipt' | 'closeLeak'>>({
  get taskQueue() {
    return receiptsTaskQueue(workflowInfo().taskQueue)
  },
  startToCloseTimeout: '365 days',
  heartbeatTimeout: '10s',
  retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '10s' },
})

/** The first attempt to tell a client: what the contacts answer is no failure of it. */
export const notifications = proxyActivities<Pick<Activities, 'notifyClient' | 'notifyOfLeak' | 'notifyOfClaim'>>({
  startToCloseTimeout: '30s',
  scheduleToCloseTimeout: '5 minutes',
  retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '1 minute' },
})

/** Of one message at one contact, after the first. */
export const MOST_ATTEMPTS = 35

/**
 * Further attempts at one contact, for a day: twelve within little more than an hour, then one an hour; or when the other side asks for it.
 * They are counted, so that time in which no worker was there, and quiet hours, are not the contact's.
 */
export const deliveries = (maximumAttempts: number) =>
  proxyActivities<Pick<Activities, 'deliver'>>({
    startToCloseTimeout: '30s',
    scheduleToCloseTimeout: '3 days',
    retry: { initialInterval: '2s', backoffCoefficient: 2, maximumInterval: '1 hour', maximumAttempts },
  })

/** What is noted of a message that was given up. */
export const givenUp = proxyActivities<Pick<Activities, 'giveUpOn'>>({
  startToCloseTimeout: '10s',
  scheduleToCloseTimeout: '1 hour',
  retry: { initialInterval: '500ms', backoffCoefficient: 2, maximumInterval: '1 minute' },
})

/** Alerts are told three times at most: nothing waits for them. */
export const alerts = proxyActivities<Pick<Activities, 'raiseAlert'>>({
  startToCloseTimeout: '5s',
  retry: { initialInterval: '500ms', maximumAttempts: 3 },
})

/** What a run of a policy asks: it may look through all the credentials of a policy, and is asked again until it is answered. */
export const policies = proxyActivities<Pick<Activities, 'planPolicyRun'>>({
  startToCloseTimeout: '2 minutes',
  retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '30s' },
})

/** What a fleet rollover records, and its waves: each starts many rotations, and is tried again with those that are left. */
export const rollovers = proxyActivities<
  Pick<Activities, 'readRollover' | 'enterRolloverStage' | 'propagateRollover' | 'issueWave'>
>({
  startToCloseTimeout: '1 day',
  heartbeatTimeout: '5s',
  retry: { initialInterval: '200ms', backoffCoefficient: 2, maximumInterval: '5s' },
})

/** What it waits for at its end, in the queue of the other waits for gateways. */
export const rolloverEnds = proxyActivities<Pick<Activities, 'awaitRolloverReceipt' | 'awaitRotations'>>({
  get taskQueue() {
    return receiptsTaskQueue(workflowInfo().taskQueue)
  },
  startToCloseTimeout: '365 days',
  heartbeatTimeout: '10s',
  retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '10s' },
})
