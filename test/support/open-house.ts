import { inject } from 'vitest'
import { House, type HouseOptions } from './house.ts'
import { createDatabase, uniqueTopics } from './servers.ts'

/**
 * A house on the servers of this test run, with a database and topics of its own.
 * @param options.kafka a forwarder before the broker
 */
export async function openHouse({ kafka, ...options }: HouseOptions & { kafka?: string }): Promise<House> {
  const [postgresUrl, { topics }] = await Promise.all([createDatabase(), uniqueTopics()])
  return House.open(
    {
      postgresUrl,
      kafkaBrokers: kafka === undefined ? inject('kafkaBrokers') : [kafka],
      topics,
      temporalAddress: inject('temporalAddress'),
      timeSkippingServer: inject('timeSkippingServer'),
      workflowBundle: inject('workflowBundle'),
    },
    options,
  )
}
