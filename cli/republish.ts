import type { Command } from 'commander'
import { command, outputOf } from './context.ts'
import { Failure } from './failure.ts'
import { serverConfig, withRegistry } from './servers.ts'

/** Rebuilds the keys topic from the registry; talks to both servers itself. */
export const republishCommand = (): Command =>
  command('republish', 'publish the state of every key again: rebuilds the keys topic from the registry').action(republish)

async function republish(_options: object, self: Command): Promise<void> {
  const output = outputOf(self)
  const { postgresUrl, kafkaBrokers, topics } = await serverConfig(['postgres', 'kafka'])
  const [{ createLog }, { createKafka }, { republishAll }] = await Promise.all([
    import('../infra/log.ts'),
    import('../activities/kafka.ts'),
    import('../activities/republish.ts'),
  ])
  const kafka = createKafka(kafkaBrokers, 'keyturn-cli', createLog('keyturn', 'silent'))
  const published = await withRegistry(postgresUrl, 2, async (db) => {
    try {
      return await republishAll({ db, kafka, topics }, (sofar) => {
        if (!output.json && process.stderr.isTTY) output.note(`${sofar} keys`)
      })
    } catch (error) {
      if (!(error instanceof Error) || !error.name.startsWith('KafkaJS')) throw error
      const hint = `Is it running? KEYTURN_KAFKA_BROKERS says where it is. What has been published stays; run this again.`
      throw new Failure(`Kafka at ${kafkaBrokers.join(', ')} does not answer`, hint, { cause: error })
    }
  })
  output.result({ published }, () => `${published} key${published === 1 ? '' : 's'} published`)
}
