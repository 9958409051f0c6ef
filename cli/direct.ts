/** `keyturn emergency … --direct`: kills keys without the API and without Temporal, in the registry and on the keys topic themselves. */
import type { RolloverId } from '@keyturn/contract'
import type { GatewayReceipt } from '@keyturn/contract/rotation'
import type { Selector } from '@keyturn/contract/selector'
import { EXIT, Failure, UsageFailure } from './failure.ts'
import type { Output } from './output.ts'
import { confirm, receiptLines } from './rollovers.ts'
import { readSelector } from './selector.ts'
import { serverConfig, withRegistry } from './servers.ts'

export interface DirectOptions {
  readonly reason: string
  readonly select?: string
  readonly all?: boolean
  readonly yes?: boolean
}

/** How long the gateways have; a worker goes on waiting for those that are missing then. */
const RECEIPT_MS = 15_000

const OWED = `Not published yet: a rotation worker does it as soon as Kafka is there.
Until then gateways with a fallback hear of it from the API, within their staleness bound; others go on accepting the keys.`

/** What is left behind is a rollover on record: a worker that finds it brings the new keys, once Temporal is there. */
export async function killDirectly(output: Output, credentialId: string | undefined, options: DirectOptions): Promise<void> {
  const { reason, select = '', all = false } = options
  const { postgresUrl, kafkaBrokers, topics } = await serverConfig(['postgres', 'kafka'])
  const selector: Selector = credentialId === undefined ? await readSelector(select) : {}
  const [{ CREDENTIAL_ID_PATTERN, randomBase62 }, registry, { createLog }, { createKafka }, { createPropagation }, rollovers] =
    await Promise.all([
      import('@keyturn/contract'),
      import('../registry/rollovers.ts'),
      import('../infra/log.ts'),
      import('../activities/kafka.ts'),
      import('../activities/propagation.ts'),
      import('../activities/rollovers.ts'),
    ])
  if (credentialId !== undefined && !new RegExp(CREDENTIAL_ID_PATTERN).test(credentialId))
    throw new UsageFailure(`${credentialId} is not a credential id`, 'It looks like crd_….')
  const choice = { selector, all, ...(credentialId === undefined ? {} : { credentialId: credentialId as never }) }
  const rolloverId = `rol_${randomBase62(16)}` as RolloverId

  const receipt = await withRegistry(postgresUrl, 5, async (db) => {
    const preview = await registry.previewRollover(db, choice).catch(inPlainWords)
    if (credentialId === undefined) await confirm(output, preview, { ...options, select })
    const order = { ...choice, rolloverId, reason, expected: preview.credentials, at: new Date(), actor: 'operator, direct' }
    const { selected, killed } = await registry.openRollover(db, order).catch(inPlainWords)
    const text = `${rolloverId}  ${killed} key${killed === 1 ? ' is' : 's are'} dead in the registry`
    output.line(text, { type: 'rollover', rolloverId, selected, killed })
    const log = createLog('keyturn', 'silent')
    const kafka = createKafka(kafkaBrokers, 'keyturn-cli', log)
    try {
      const propagation = createPropagation({ kafka, topics, db, log, source: '/keyturn/cli' })
      try {
        const publication = await rollovers.publishRollover({ db, propagation }, rolloverId)
        return await rollovers.confirmRollover({ db, propagation }, rolloverId, publication, { timeoutMs: RECEIPT_MS })
      } finally {
        await propagation.stop()
      }
    } catch (error) {
      if (!(error instanceof Error) || !/^KafkaJS|Kafka/.test(`${error.name} ${error.message}`)) throw error
      output.line(OWED, { type: 'publication', published: false, owedBy: 'rotation worker' })
      throw new Failure(`Kafka at ${kafkaBrokers.join(', ')} does not answer`, 'Nothing is to be repeated.', { cause: error })
    }
  })
  output.line(directText(receipt, output), { type: 'receipt', ...receipt })
  if (receipt.unconfirmed.length > 0) process.exitCode = EXIT.failed
}

function directText(
  { gateways, unconfirmed }: { gateways: readonly GatewayReceipt[]; unconfirmed: readonly string[] },
  output: Output,
): string {
  const missing =
    unconfirmed.length === 0
      ? []
      : [output.paint('yellow', `unconfirmed: ${unconfirmed.join(', ')}: a worker goes on waiting for them`)]
  return [...receiptLines(gateways), ...missing, 'New keys come when a worker and Temporal are there.'].join('\n')
}

/** What the registry refuses, as the API would say it. */
async function inPlainWords(error: unknown): Promise<never> {
  const { RegistryError } = await import('../registry/errors.ts')
  if (!(error instanceof RegistryError)) throw error
  const { problem } = await import('@keyturn/contract/problem')
  const { title } = problem(error.code)
  throw error.code === 'empty-selector' ? new UsageFailure(title, error.message) : new Failure(title, error.message)
}
