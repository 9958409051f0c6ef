import type { Command } from 'commander'
import { command, outputOf } from './context.ts'
import { UsageFailure } from './failure.ts'
import { publishingFailure } from './republish.ts'
import { serverConfig, withRegistry } from './servers.ts'

interface RecoverOptions {
  readonly reason?: string
  readonly dryRun?: boolean
  readonly deactivateUnknown?: boolean
}

/** Brings a registry that was restored from a backup up to the keys topic; talks to the servers itself. */
export const recoverCommand = (): Command =>
  command('recover', 'after PostgreSQL was restored from a backup: take over what the keys topic knows')
    .option('--reason <text>', 'for the audit log')
    .option('--dry-run', 'only show what the topic knows and the registry does not')
    .option('--deactivate-unknown', 'switch off keys that were issued after the backup, instead of entering them as they are')
    .action(recover)

async function recover(options: RecoverOptions, self: Command): Promise<void> {
  const { reason, dryRun = false, deactivateUnknown = false } = options
  if (reason === undefined && !dryRun) throw new UsageFailure('--reason is missing', 'Or look first, with --dry-run.')
  const output = outputOf(self)
  const config = await serverConfig(['postgres', 'kafka', 'temporal'])
  const [{ createLog }, { createKafka }, { recoverRegistry }, { endLostRotations }] = await Promise.all([
    import('../infra/log.ts'),
    import('../activities/kafka.ts'),
    import('../activities/recovery.ts'),
    import('../workers/lost-rotations.ts'),
  ])
  const log = createLog('keyturn', 'silent')
  const kafka = createKafka(config.kafkaBrokers, 'keyturn-cli', log)
  const result = await withRegistry(config.postgresUrl, 2, async (db) => {
    try {
      const input = { dryRun, deactivateUnknown, reason: reason ?? '', actor: 'operator', at: new Date() }
      const recovered = await recoverRegistry({ db, kafka, topics: config.topics, log }, input)
      return { ...recovered, ended: dryRun ? [] : await endLostRotations(config, db, input.reason) }
    } catch (error) {
      throw publishingFailure(error, config.kafkaBrokers)
    }
  })
  const { differences, recovered, settled, ended } = result
  const keys = differences.map(({ keyId, kind, event, record }) => ({ keyId, kind, event, state: record?.state ?? 'destroyed' }))
  output.result({ differences: keys, recovered, settled, ended }, () => {
    if (keys.length === 0 && ended.length === 0) return 'the registry knows all that the keys topic knows'
    const lines = keys.map(({ keyId, kind, state }) => `${keyId}  ${KINDS[kind]}; ${state} on the topic`)
    if (dryRun) return [...lines, '', 'Nothing was changed. `keyturn recover --reason …` takes this over.'].join('\n')
    for (const { credentialId, opened } of settled)
      if (opened !== undefined)
        lines.push(`${credentialId}  both keys are accepted: \`keyturn rotate ${credentialId}\` goes on with ${opened}`)
    for (const { credentialId, beside } of settled)
      for (const keyId of beside) lines.push(`${credentialId}  ${keyId} is accepted beside the two newest keys: tell its client`)
    for (const { credentialId } of ended)
      lines.push(`${credentialId}  its rotation was lost with the registry, and has been ended`)
    return [...lines, '', `${recovered.length} key${recovered.length === 1 ? '' : 's'} recovered and published`].join('\n')
  })
}

const KINDS = {
  unknown: 'issued after the backup',
  behind: 'changed after the backup',
  'another-history': 'changed after the backup, and otherwise since',
} as const
