/** Starting rotations, and looking at them. */
import { ON_DEADLINE, ROTATION_STAGES, type Trigger } from '@keyturn/contract/rotation'
import { type Command, Option } from 'commander'
import type { RotationAnswer, RotationSummary } from './answers.ts'
import { type Context, command, outputOf, withApi } from './context.ts'
import { UsageFailure } from './failure.ts'
import { duration } from './options.ts'
import { rotationsText, rotationText } from './rendering.ts'
import { type FleetOptions, rollFleetOver } from './rollovers.ts'
import { watchRotation } from './watch.ts'

interface RotateOptions {
  readonly reason: string
  readonly overlap?: string
  readonly quietPeriod?: string
  readonly onDeadline?: string
  readonly regretWindow?: string
  readonly receiptWait?: string
  readonly grace?: string
  readonly watch?: boolean
}

async function rotate(context: Context, trigger: Trigger, credentialId: string, options: RotateOptions): Promise<void> {
  const { reason, overlap, quietPeriod, onDeadline, regretWindow, receiptWait, grace, watch } = options
  const body = { trigger, reason, overlap, quietPeriod, onDeadline, regretWindow, receiptWait, grace }
  const path = `/v1/credentials/${encodeURIComponent(credentialId)}/rotations`
  const answer = await context.api.post<{ rotationId: string; trigger: Trigger; joined: boolean }>(path, body)
  const text = `${answer.rotationId}${answer.joined ? '  (this rotation was running already)' : ''}`
  if (watch !== true) return context.output.result(answer, () => text)
  context.output.line(text, { type: 'rotation', ...answer })
  process.exitCode = await watchRotation(context, answer.rotationId, Date.now())
}

const withPolicy = (self: Command): Command =>
  self
    .option('--overlap <duration>', 'how long both keys are accepted: 14d', duration)
    .option('--quiet-period <duration>', 'how long the old key must have been unused: 24h', duration)
    .addOption(new Option('--on-deadline <what>', 'what to do when the overlap ends').choices(ON_DEADLINE))
    .option('--regret-window <duration>', 'how long refusals of the old key are watched afterwards: 1h', duration)
    .option('--receipt-wait <duration>', 'how long a gateway may be missing: 10m', duration)
    .option('--watch', 'follow it to its end; exit code 1 when it is rolled back')

export const rotateCommand = (): Command =>
  withPolicy(command('rotate', 'replace the key of a credential').argument('<credential>'))
    .option('--reason <text>', 'for the audit log', 'asked for with keyturn rotate')
    .action(withApi((context, credentialId: string, options: RotateOptions) => rotate(context, 'manual', credentialId, options)))

interface EmergencyOptions extends RotateOptions, Omit<FleetOptions, 'select'> {
  readonly select?: string
  readonly direct?: boolean
}

async function emergency(credentialId: string | undefined, options: EmergencyOptions, self: Command): Promise<void> {
  const { select, all, direct, watch, grace } = options
  if (credentialId !== undefined && (select !== undefined || all === true))
    throw new UsageFailure('A credential and a selector are both given', 'Keep one of them.')
  if (credentialId === undefined && select === undefined && all !== true)
    throw new UsageFailure('Which keys?', 'Name a credential, or --select some: --select "environment=prod scope=trade:*".')
  if (credentialId === undefined && grace !== undefined)
    throw new UsageFailure('A fleet is killed first: there is no grace for it', 'Name one credential to leave its client time.')
  if (direct === true) {
    if (grace !== undefined) throw new UsageFailure('--direct kills at once', 'Leave --grace out.')
    if (watch === true) throw new UsageFailure('--direct waits for the receipts itself', 'Leave --watch out.')
    const { killDirectly } = await import('./direct.ts')
    return killDirectly(outputOf(self), credentialId, options)
  }
  return withApi((context) =>
    credentialId === undefined
      ? rollFleetOver(context, { ...options, select: select ?? '' })
      : rotate(context, 'emergency', credentialId, options),
  )(self)
}

export const emergencyCommand = (): Command =>
  withPolicy(command('emergency', 'replace keys that are exposed: the old ones die first').argument('[credential]'))
    .requiredOption('--reason <text>', 'for the audit log')
    .option('--grace <duration>', 'one credential: how long its client has to switch over before the old key dies: 15m', duration)
    .option('--select <selector>', 'all that are selected: "environment=prod scope=trade:*"')
    .option('--all', 'every credential there is')
    .option('--yes', 'do it without the count being typed')
    .option('--direct', 'without the API and Temporal: changes the registry and tells the gateways from here')
    .action(emergency)

interface StatusOptions {
  readonly stage?: string
  readonly client?: string
  readonly watch?: boolean
}

async function show(context: Context, rotationId: string | undefined, { stage, client, watch }: StatusOptions): Promise<void> {
  const { api, output } = context
  if (rotationId === undefined) {
    if (watch === true) throw new UsageFailure('--watch needs a rotation', '`keyturn status` lists them.')
    const page = await api.get<{ rotations: RotationSummary[] }>('/v1/rotations', { stage, client })
    return output.result(page, () => rotationsText(page.rotations, output))
  }
  if (stage !== undefined || client !== undefined) {
    throw new UsageFailure('--stage and --client choose from the list', 'Leave them out to look at one rotation.')
  }
  if (watch === true) {
    process.exitCode = await watchRotation(context, encodeURIComponent(rotationId))
    return
  }
  const rotation = await api.get<RotationAnswer>(`/v1/rotations/${encodeURIComponent(rotationId)}`)
  output.result(rotation, () => rotationText(rotation, output))
}

export const statusCommand = (): Command =>
  command('status', 'list rotations, or show one')
    .argument('[rotation]')
    .addOption(new Option('--stage <stage>', 'list those at this stage').choices(ROTATION_STAGES))
    .option('--client <client>', 'list those of this client')
    .option('--watch', 'follow it to its end; exit code 1 when it is rolled back')
    .action(withApi(show))
