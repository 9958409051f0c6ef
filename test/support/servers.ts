/** What test files use of the servers that global-setup.ts has started. */
import { randomBytes } from 'node:crypto'
import { type TopicNames, topicNames } from '@keyturn/contract'
import { Kafka, logLevel } from 'kafkajs'
import { inject } from 'vitest'
import { ensureTopics } from '../../infra/topics.ts'
import { copyTemplate } from './databases.ts'

/** A fresh, migrated database. @returns its address */
export const createDatabase = (): Promise<string> => copyTemplate(inject('postgresUrl'), inject('runName'))

/** A client that says nothing. */
export const kafkaClient = (clientId = 'keyturn-test'): Kafka =>
  new Kafka({
    brokers: inject('kafkaBrokers'),
    clientId,
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, retries: 10 },
  })

/** Makes the topics under a prefix that nobody else has. `prefix` is for KEYTURN_TOPIC_PREFIX. */
export async function uniqueTopics(): Promise<{ prefix: string; topics: TopicNames }> {
  const prefix = `t${randomBytes(6).toString('hex')}.`
  const topics = topicNames(prefix)
  await ensureTopics(kafkaClient(), topics)
  return { prefix, topics }
}
