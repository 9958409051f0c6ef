import { ALERT_TYPE, type Alert, CLOUDEVENTS_MEDIA_TYPE, encodeEvent, type TopicNames } from '@keyturn/contract'
import { type ControlKafka, createPublisher } from './kafka.ts'

export interface Alerts {
  raise(alert: Omit<Alert, 'at'>): Promise<void>
  stop(): Promise<void>
}

/** The alerts topic: what people and SIEMs act on. */
export function createAlerts(kafka: ControlKafka, topics: TopicNames, source: string): Alerts {
  const publisher = createPublisher(kafka)
  return {
    async raise(alert) {
      const time = new Date()
      const value = encodeEvent({
        type: ALERT_TYPE,
        source,
        subject: alert.credentialId,
        time,
        data: { ...alert, at: time.toISOString() },
      })
      const headers = { 'content-type': CLOUDEVENTS_MEDIA_TYPE }
      await publisher.send(topics.alerts, [{ key: alert.credentialId, value, headers }])
    },
    stop: () => publisher.stop(),
  }
}

export function createAlertActivities({ alerts }: { alerts: Alerts }) {
  const raiseAlert = (alert: Omit<Alert, 'at'>): Promise<void> => alerts.raise(alert)
  return { raiseAlert }
}
