import type { TopicNames } from '@keyturn/contract'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import { keyIdPages, publishKeys } from '../registry/publishing.ts'
import { type ControlKafka, createPublisher } from './kafka.ts'
import { keyMessage } from './propagation.ts'
import { createRegistryGuard } from './registry-guard.ts'

const PAGE = 500

/**
 * Publishes the present state of every key again: what rebuilds the keys topic from the registry. Gateways that have a key in
 * this revision already pass it over.
 * @returns how many keys
 * @throws RegistryError registry-restored
 */
export async function republishAll(
  { db, kafka, topics, log }: { db: Database; kafka: ControlKafka; topics: TopicNames; log: Logger },
  onProgress: (published: number) => void = () => {},
): Promise<number> {
  const publisher = createPublisher(kafka)
  const guard = createRegistryGuard({ db, kafka, topics, log })
  let published = 0
  try {
    // A backup may hold no key at all.
    await guard.ensure()
    for await (const keyIds of keyIdPages(db, PAGE)) {
      await guard.run(() =>
        publishKeys(db, keyIds, async (rows) => {
          const at = new Date()
          await publisher.send(
            topics.keys,
            rows.map((row) => keyMessage('/keyturn/republish', row, at)),
          )
        }),
      )
      published += keyIds.length
      onProgress(published)
    }
  } finally {
    await publisher.stop()
  }
  return published
}
