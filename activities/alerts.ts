import { setTimeout } from 'node:timers/promises'
import { ALERT_TYPE, type Alert, CLOUDEVENTS_MEDIA_TYPE, cut, encodeEvent, type TopicNames, wellFormed } from '@keyturn/contract'
import { type ControlKafka, createPublisher } from './kafka.ts'

const AGAIN_AFTER_MS = 1_000
/** More than this many alerts do not wait for Kafka; the audit log knows what they were to say. */
const MOST_WAITING = 1_000
/** As the contract has it. */
const LONGEST_DETAIL = 500

export interface Alerts {
  /** Rejects when Kafka does not take it. */
  raise(alert: Omit<Alert, 'at'>): Promise<void>
  /** For those whom no workflow tries again: resolves once Kafka has taken it, however long it was away; rejects at the stop. */
  raiseInTheEnd(alert: Omit<Alert, 'at'>): Promise<void>
  stop(): Promise<void>
}

/** The alerts topic: what people and SIEMs act on. */
export function createAlerts(kafka: ControlKafka, topics: TopicNames, source: string): Alerts {
  const publisher = createPublisher(kafka)
  const stopping = new AbortController()
  let waiting = 0

  const send = async (alert: Omit<Alert, 'at'>, time: Date): Promise<void> => {
    const value = encodeEvent({
      type: ALERT_TYPE,
      source,
      subject: alert.credentialId,
      time,
      data: { ...alert, detail: wellFormed(cut(alert.detail, LONGEST_DETAIL)), at: time.toISOString() },
    })
    const headers = { 'content-type': CLOUDEVENTS_MEDIA_TYPE }
    await publisher.send(topics.alerts, [{ key: alert.credentialId, value, headers }])
  }

  return {
    raise: (alert) => send(alert, new Date()),
    async raiseInTheEnd(alert) {
      const time = new Date()
      waiting += 1
      try {
        for (;;) {
          try {
            return await send(alert, time)
          } catch (error) {
            if (stopping.signal.aborted || waiting > MOST_WAITING) throw error
            await setTimeout(AGAIN_AFTER_MS, undefined, { signal: stopping.signal })
          }
        }
      } finally {
        waiting -= 1
      }
    },
    stop() {
      stopping.abort()
      return publisher.stop()
    },
  }
}

export function createAlertActivities({ alerts }: { alerts: Pick<Alerts, 'raise'> }) {
  const raiseAlert = (alert: Omit<Alert, 'at'>): Promise<void> => alerts.raise(alert)
  return { raiseAlert }
}
