/** Losing a topic. */
import type { TopicNames } from '@keyturn/contract'
import { ensureTopics } from '../../infra/topics.ts'
import { kafkaClient } from './servers.ts'

/** Deletes one of the topics; `meanwhile` happens before it is made anew, empty. */
export async function loseTopic(
  topics: TopicNames,
  topic: string,
  meanwhile: () => Promise<void> = async () => undefined,
): Promise<void> {
  const admin = kafkaClient().admin()
  await admin.connect()
  try {
    await admin.deleteTopics({ topics: [topic] })
    await meanwhile()
    // Kafka deletes in its own time, and refuses to make a topic that is being deleted.
    for (const giveUp = Date.now() + 30_000; ; ) {
      await ensureTopics(kafkaClient(), topics).catch(() => undefined)
      if ((await admin.listTopics()).includes(topic)) return
      if (Date.now() > giveUp) throw new Error('the topic could not be made anew')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  } finally {
    await admin.disconnect()
  }
}
