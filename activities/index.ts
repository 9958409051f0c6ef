/** What workflows do to the world. Composed once in each worker; workflows see its type alone. */
import { type Alerts, createAlertActivities } from './alerts.ts'
import { createDeliveryActivities, type DeliveryDeps } from './deliveries.ts'
import { withFinalRefusals } from './errors.ts'
import { createKeyActivities, type KeyActivityDeps } from './keys.ts'
import { createLeakActivities, type LeakActivityDeps } from './leaks.ts'
import { createNotificationActivities, type NotificationDeps } from './notification.ts'
import { createPolicyActivities } from './policies.ts'
import type { Propagation } from './propagation.ts'
import { createReceiptActivities } from './receipts.ts'
import { createRolloverActivities, type RolloverActivityDeps } from './rollovers.ts'
import { createRotationActivities } from './rotations.ts'

export interface ActivityDeps extends KeyActivityDeps, NotificationDeps, LeakActivityDeps, RolloverActivityDeps, DeliveryDeps {
  readonly propagation: Propagation
  readonly alerts: Alerts
}

export const createActivities = (deps: ActivityDeps) =>
  withFinalRefusals({
    ...createKeyActivities(deps),
    ...createDeliveryActivities(deps),
    ...createRotationActivities(deps),
    ...createPolicyActivities(deps),
    ...createLeakActivities(deps),
    ...createReceiptActivities(deps),
    ...createRolloverActivities(deps),
    ...createNotificationActivities(deps),
    ...createAlertActivities(deps),
  })
export type Activities = ReturnType<typeof createActivities>
