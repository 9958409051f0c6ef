import type { Command } from 'commander'
import { loadConfig } from '../infra/config.ts'
import { createLog } from '../infra/log.ts'
import { command, outputOf } from './context.ts'
import { serverEnvironment } from './settings.ts'

/** Rebuilds the keys topic from the registry; talks to both servers itself. */
export const republishCommand = (): Command =>
  command('republish', 'publish the state of every key again: rebuilds the keys topic from the registry').action(republish)

async function republish(_options: object, self: Command): Promise<void> {
  const output = outputOf(self)
  const { postgresUrl, kafkaBrokers, topics } = loadConfig(serverEnvironment(process.env, process.cwd()), ['postgres', 'kafka'])
  const [{ openDatabase }, { createKafka }, { republishAll }] = await Promise.all([
    import('../registry/database.ts'),
    import('../activities/kafka.ts'),
    import('../activities/republish.ts'),
  ])
  const db = openDatabase(postgresUrl, { applicationName: 'keyturn-cli', max: 2 })
  try {
    const kafka = createKafka(kafkaBrokers, 'keyturn-cli', createLog('keyturn', 'silent'))
    const published = await republishAll({ db, kafka, topics }, (sofar) => {
      if (!output.json && process.stderr.isTTY) output.note(`${sofar} keys`)
    })
    output.result({ published }, () => `${published} key${published === 1 ? '' : 's'} published`)
  } finally {
    await db.close()
  }
}
