import { inject } from 'vitest'
import { House, type HouseOptions } from './house.ts'
import { createDatabase, uniqueTopics } from './servers.ts'

/**
 * A house on the servers of this test run, with a database and topics of its own.
 * @param options.kafka a forwarder before the broker
 */
export async function openHouse({ kafka, ...options }: HouseOptions & { kafka?: string }): Promise<House> {
  return House.open(
    {
      postgresUrl: await createDatabase(),
      kafkaBrokers: kafka === undefined ? inject('kafkaBrokers') : [kafka],
      topics: (await uniqueTopics()).topics,
      temporalAddress: inject('temporalAddress'),
      timeSkippingServer: inject('timeSkippingServer'),
      workflowBundle: inject('workflowBundle'),
    },
    options,
  )
}
