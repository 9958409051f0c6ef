/** Rolling a whole fleet over: it is shown first, and the count has to be typed. */
import { setTimeout as pause } from 'node:timers/promises'
import type { RolloverCounts, RolloverReceipt, RolloverRemainder, RolloverStage } from '@keyturn/contract/rollover'
import type { GatewayReceipt } from '@keyturn/contract/rotation'
import type { Selector } from '@keyturn/contract/selector'
import { Command } from 'commander'
import { confirmCount } from './confirmation.ts'
import { type Context, command, withApi } from './context.ts'
import { EXIT, Failure, ProblemFailure, UsageFailure } from './failure.ts'
import { type Output, plain, table } from './output.ts'
import { clock } from './rendering.ts'
import { readSelector } from './selector.ts'

interface Preview {
  readonly credentials: number
  readonly keys: number
  readonly clients: number
  readonly environments: Readonly<Record<string, number>>
  readonly joined: number
}

interface RolloverAnswer {
  readonly rolloverId: string
  readonly selector: Selector
  readonly credentialId?: string
  readonly reason: string
  readonly stage: RolloverStage
  readonly counts: RolloverCounts
  readonly receipts: readonly RolloverReceipt[]
  readonly unconfirmed: readonly string[]
  readonly remainder: readonly RolloverRemainder[]
  readonly openedAt: string
  readonly endedAt?: string
}

export interface FleetOptions {
  readonly reason: string
  readonly select: string
  readonly all?: boolean
  readonly yes?: boolean
  readonly watch?: boolean
}

const LOOK_AGAIN_MS = 1_000
/** So long the API may be away before watching is given up. */
const PATIENCE_MS = 5 * 60_000

/** Kills the keys of all that are selected. @param options.select what `parseSelector` reads */
export async function rollFleetOver({ api, output }: Context, options: FleetOptions): Promise<void> {
  const selector = await readSelector(options.select)
  const all = options.all === true
  const preview = await api.get<Preview>('/v1/rollovers/preview', { selector: options.select, ...(all ? { all: 'true' } : {}) })
  await confirm(output, preview, options)
  const body = { selector, reason: options.reason, expected: preview.credentials, all }
  const answer = await api.post<{ rolloverId: string; selected: number; killed: number }>('/v1/rollovers', body)
  const text = `${answer.rolloverId}  ${answer.killed} keys are dead`
  if (options.watch !== true) return output.result(answer, () => text)
  output.line(text, { type: 'rollover', ...answer })
  process.exitCode = await watchRollover({ api, output }, answer.rolloverId)
}

/**
 * Shows what is going to happen, and has the count typed.
 * @throws UsageFailure where nobody can type; Failure when something else is typed
 */
export async function confirm(
  output: Output,
  preview: Preview,
  { select, yes }: Pick<FleetOptions, 'select' | 'yes'>,
): Promise<void> {
  if (preview.credentials === 0) throw new Failure('No credential with a key is selected', 'Nothing was done.')
  if (!output.json) output.note(previewText(select, preview))
  await confirmCount(preview.credentials, 'credentials to kill their keys', yes)
}

function previewText(select: string, { credentials, keys, clients, environments, joined }: Preview): string {
  const where = Object.entries(environments).map(([environment, count]) => `${environment} ${count}`)
  const lines = [
    `selector     ${select.trim() === '' ? 'everything' : plain(select)}`,
    `credentials  ${credentials} of ${clients} client${clients === 1 ? '' : 's'} (${where.join(', ')})`,
    `keys         ${keys} die at once, for good; new ones are issued and delivered after that`,
  ]
  if (joined > 0)
    lines.push(
      `joined       ${joined} of the credentials are in another rollover, which issues their new keys: nothing of theirs dies again`,
    )
  return lines.join('\n')
}

export function rolloverCommands(): Command {
  const show = async (
    { api, output }: Context,
    rolloverId: string | undefined,
    { watch }: { watch?: boolean },
  ): Promise<void> => {
    if (rolloverId === undefined) {
      if (watch === true) throw new UsageFailure('--watch needs a rollover', '`keyturn rollover status` lists them.')
      const list = await api.get<{ rollovers: RolloverAnswer[] }>('/v1/rollovers')
      return output.result(list, () => rolloversText(list.rollovers))
    }
    if (watch === true) {
      process.exitCode = await watchRollover({ api, output }, rolloverId)
      return
    }
    const rollover = await read(api, rolloverId)
    output.result(rollover, () => rolloverText(rollover, output))
  }
  const all = new Command('rollover')
    .description('fleet rollovers: `keyturn emergency --select …` starts one')
    .addCommand(
      command('status', 'list rollovers, or show one')
        .argument('[rollover]')
        .option('--watch', 'follow it to its end; exit code 1 when it is cancelled')
        .action(withApi(show)),
    )
  const orders = {
    pause: 'begin no further wave of new keys',
    resume: 'go on with a paused rollover',
    cancel: 'issue no more new keys; what is dead stays dead',
  }
  for (const [name, description] of Object.entries(orders)) {
    all.addCommand(
      command(name, description)
        .argument('<rollover>')
        .requiredOption('--reason <text>', 'for the audit log')
        .action(
          withApi(async ({ api, output }, rolloverId: string, { reason }: { reason: string }) => {
            const path = `/v1/rollovers/${encodeURIComponent(rolloverId)}/${name}`
            const rollover = await api.post<RolloverAnswer>(path, { reason })
            output.result(rollover, () => rolloverText(rollover, output))
          }),
        ),
    )
  }
  return all
}

const read = (api: Context['api'], rolloverId: string): Promise<RolloverAnswer> =>
  api.get<RolloverAnswer>(`/v1/rollovers/${encodeURIComponent(rolloverId)}`)

/** Prints how far it has come whenever that changes. @returns the exit code: 0 when it was completed, 1 when it was cancelled */
async function watchRollover({ api, output }: Context, rolloverId: string): Promise<number> {
  let said = ''
  for (let heardAt = Date.now(); ; await pause(LOOK_AGAIN_MS)) {
    let rollover: RolloverAnswer
    try {
      rollover = await read(api, rolloverId)
      heardAt = Date.now()
    } catch (error) {
      if (error instanceof ProblemFailure && error.problem.status < 500) throw error
      if (Date.now() - heardAt > PATIENCE_MS) throw error
      continue
    }
    const text = progressLine(rollover, output)
    if (text !== said) output.line(text, { type: 'progress', ...rollover })
    said = text
    if (rollover.endedAt === undefined) continue
    output.line(rolloverText(rollover, output))
    return rollover.stage === 'completed' ? EXIT.done : EXIT.failed
  }
}

function progressLine({ stage, counts, unconfirmed }: RolloverAnswer, output: Output): string {
  const { selected, killed, confirmed, successors, delivered, failed } = counts
  const waits = unconfirmed.length === 0 ? '' : output.paint('yellow', `  unconfirmed: ${unconfirmed.join(', ')}`)
  const bad = failed === 0 ? '' : output.paint('red', `  failed ${failed}`)
  return `${output.paint('cyan', stage)}  dead ${killed}, confirmed ${confirmed}  new ${successors}, delivered ${delivered} of ${selected}${bad}${waits}`
}

function rolloverText(rollover: RolloverAnswer, output: Output): string {
  const { rolloverId, reason, receipts, remainder, openedAt } = rollover
  const lines = [`${rolloverId}  ${clock(openedAt)}  ${plain(reason)}`, progressLine(rollover, output)]
  for (const { gateways } of receipts) lines.push(...receiptLines(gateways))
  if (remainder.length > 0) {
    lines.push('', 'Without a new key from this rollover:')
    lines.push(
      table(
        ['credential', 'rotation', 'why'],
        remainder.map(({ credentialId, rotationId = '', why }) => [credentialId, rotationId, plain(why)]),
      ),
    )
  }
  return lines.join('\n')
}

export const receiptLines = (gateways: readonly GatewayReceipt[]): string[] =>
  gateways.map(({ gatewayId, appliedAt, ms }) => `${clock(appliedAt)}  ${gatewayId}  refuses all of them, after ${ms} ms`)

const rolloversText = (rollovers: readonly RolloverAnswer[]): string =>
  rollovers.length === 0
    ? 'no rollovers'
    : table(
        ['rollover', 'stage', 'opened', 'reason'],
        rollovers.map(({ rolloverId, stage, openedAt, reason }) => [rolloverId, stage, clock(openedAt), plain(reason)]),
      )
