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
  const log = createLog('keyturn', 'silent')
  const kafka = createKafka(kafkaBrokers, 'keyturn-cli', log)
  const published = await withRegistry(postgresUrl, 2, async (db) => {
    try {
      return await republishAll({ db, kafka, topics, log }, (sofar) => {
        if (!output.json && process.stderr.isTTY) output.note(`${sofar} keys`)
      })
    } catch (error) {
      throw publishingFailure(error, kafkaBrokers)
    }
  })
  output.result({ published }, () => `${published} key${published === 1 ? '' : 's'} published`)
}

/** What went wrong while keys were published, in plain words where it is known. */
export function publishingFailure(error: unknown, kafkaBrokers: readonly string[]): unknown {
  if (!(error instanceof Error)) return error
  if ('code' in error && error.code === 'registry-restored') {
    const hint = 'See what differs with `keyturn recover --dry-run`; docs/playbooks/postgresql-restored.md says what to do.'
    return new Failure('The registry is older than the keys topic: it was restored from a backup', hint, { cause: error })
  }
  if (!error.name.startsWith('KafkaJS')) return error
  const hint = `Is it running? KEYTURN_KAFKA_BROKERS says where it is. What has been published stays; run this again.`
  return new Failure(`Kafka at ${kafkaBrokers.join(', ')} does not answer`, hint, { cause: error })
}
