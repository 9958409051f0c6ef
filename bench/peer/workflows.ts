/** The least that a workflow with an activity can be: what Temporal alone takes. */
import { proxyActivities } from '@temporalio/workflow'

const { nothing } = proxyActivities<{ nothing(): Promise<void> }>({ startToCloseTimeout: '1 minute' })

export const oneActivity = (): Promise<void> => nothing()
