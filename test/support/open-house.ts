import { inject } from 'vitest'
import { House, type HouseOptions } from './house.ts'
import { createDatabase, uniqueTopics } from './servers.ts'

/** A house on the servers of this test run, with a database and topics of its own. */
export async function openHouse(options: HouseOptions): Promise<House> {
  return House.open(
    {
      postgresUrl: await createDatabase(),
      kafkaBrokers: inject('kafkaBrokers'),
      topics: (await uniqueTopics()).topics,
      temporalAddress: inject('temporalAddress'),
      timeSkippingServer: inject('timeSkippingServer'),
      workflowBundle: inject('workflowBundle'),
    },
    options,
  )
}
