/** Policies: which credentials are rotated when, and how. */
import type { Policy, Selector } from '@keyturn/contract'
import { Command, InvalidArgumentError } from 'commander'
import { command, withApi } from './context.ts'
import { UsageFailure } from './failure.ts'
import { type Output, plain, table } from './output.ts'
import { readPolicyFile } from './policy-file.ts'
import { clock } from './rendering.ts'

interface PolicyAnswer {
  readonly name: string
  readonly revision: number
  readonly policy: Policy
  readonly credentials: number
  readonly changedAt: string
  readonly stopped?: { readonly at: string; readonly reason: string }
}

interface PolicyChange {
  readonly name: string
  readonly change: 'created' | 'changed' | 'unchanged' | 'removed'
  readonly credentials: number
  readonly before?: Policy
  readonly after?: Policy
  readonly warnings: readonly string[]
}

interface Applied {
  readonly changes: readonly PolicyChange[]
  readonly dryRun: boolean
  readonly scheduled: boolean
}

interface Preview {
  readonly name: string
  readonly credentials: number
  readonly selectedByOthers: readonly { readonly policy: string; readonly credentials: number }[]
  readonly period: string
  readonly turn: string
  readonly from: string
  readonly to: string
  readonly starts: number
  readonly oldest?: string
  readonly days: readonly { readonly date: string; readonly starts: number; readonly closed: string }[]
  readonly waves: readonly {
    readonly wave: number
    readonly starts: number
    readonly firstAt?: string
    readonly lastAt?: string
  }[]
  readonly warnings: readonly string[]
}

interface PreviewOptions {
  readonly file?: string
  readonly days?: string
}

const SIGNS = { created: '+', changed: '~', unchanged: '=', removed: '-' } as const
const COLOURS = { created: 'green', changed: 'yellow', unchanged: 'dim', removed: 'red' } as const

function days(text: string): string {
  if (!/^[1-9]\d{0,2}$/.test(text)) throw new InvalidArgumentError('Give a number of days from 1 to 366.')
  return text
}

export function policyCommands(): Command {
  return new Command('policy')
    .description('which credentials are rotated when, and how')
    .addCommand(
      command('apply', 'apply a file of policies: all of them or none')
        .argument('<file>')
        .option('--dry-run', 'show what would change, and change nothing')
        .option('--prune', 'remove the policies that are not in the file')
        .action(
          withApi(
            async ({ api, output }, file: string, { dryRun = false, prune = false }: { dryRun?: boolean; prune?: boolean }) => {
              const policies = await readPolicyFile(file)
              const applied = await api.put<Applied>('/v1/policies', { policies, prune, dryRun })
              output.result(applied, () => appliedText(applied, output))
              if (!dryRun && !applied.scheduled) output.note('Temporal does not answer; the schedules follow by themselves.')
            },
          ),
        ),
    )
    .addCommand(
      command('list', 'list the policies').action(
        withApi(async ({ api, output }) => {
          const answer = await api.get<{ policies: PolicyAnswer[] }>('/v1/policies')
          const { formatSelector } = await import('@keyturn/contract/selector')
          output.result(answer, () => policiesText(answer.policies, formatSelector, output))
        }),
      ),
    )
    .addCommand(
      command('preview', 'show what a policy will do in the next days, or what those of a file would')
        .argument('[name]')
        .option('--file <file>', 'the policy as it stands in this file, not yet applied')
        .option('--days <days>', 'how far to look ahead; 30 unless given', days)
        .action(
          withApi(async ({ api, output }, name: string | undefined, { file, days: ahead }: PreviewOptions) => {
            const previews: Preview[] = []
            if (file === undefined) {
              const names =
                name === undefined
                  ? (await api.get<{ policies: PolicyAnswer[] }>('/v1/policies')).policies.map((policy) => policy.name)
                  : [name]
              for (const each of names)
                previews.push(await api.get<Preview>(`/v1/policies/${encodeURIComponent(each)}/preview`, { days: ahead }))
            } else {
              const policies = (await readPolicyFile(file)).filter((policy) => name === undefined || policy.name === name)
              if (policies.length === 0) throw new UsageFailure(`There is no policy ${name ?? ''} in ${file}`)
              for (const policy of policies) {
                const asked = { policy, ...(ahead === undefined ? {} : { days: Number(ahead) }) }
                previews.push(await api.post<Preview>('/v1/policies/preview', asked))
              }
            }
            output.result({ previews }, () =>
              previews.length === 0 ? 'no policies' : previews.map((preview) => previewText(preview, output)).join('\n\n'),
            )
          }),
        ),
    )
    .addCommand(
      command('resume', 'let a policy go on that was stopped because too much of a wave went wrong')
        .argument('<name>')
        .requiredOption('--reason <text>', 'for the audit log')
        .action(
          withApi(async ({ api, output }, name: string, { reason }: { reason: string }) => {
            const answer = await api.post<PolicyAnswer>(`/v1/policies/${encodeURIComponent(name)}/resume`, { reason })
            output.result(answer, () => `${name} goes on`)
          }),
        ),
    )
    .addCommand(
      command('remove', 'remove a policy; rotations that it has started go on')
        .argument('<name>')
        .action(
          withApi(async ({ api, output }, name: string) => {
            const answer = await api.delete<{ credentials: number }>(`/v1/policies/${encodeURIComponent(name)}`)
            output.result(answer, () => `${name} is removed; it had ${credentialsText(answer.credentials)}`)
          }),
        ),
    )
}

const credentialsText = (count: number): string => `${count} credential${count === 1 ? '' : 's'}`

function policiesText(policies: readonly PolicyAnswer[], selectorText: (selector: Selector) => string, output: Output): string {
  if (policies.length === 0) return 'no policies'
  return table(
    ['policy', 'credentials', 'period', 'overlap', 'selects', 'changed', ''],
    policies.map(({ name, policy, credentials, changedAt, stopped }) => [
      name,
      String(credentials),
      policy.period ?? '90d',
      policy.overlap ?? '',
      policy.select === undefined ? 'all' : selectorText(policy.select),
      clock(changedAt),
      stopped === undefined ? '' : output.paint('red', `stopped: ${plain(stopped.reason)}`),
    ]),
  )
}

function appliedText({ changes, dryRun }: Applied, output: Output): string {
  const lines = changes.flatMap(({ name, change, credentials, before, after, warnings }) => [
    output.paint(
      COLOURS[change],
      `${SIGNS[change]} ${name}  ${change === 'removed' ? 'had ' : ''}${credentialsText(credentials)}`,
    ),
    ...(change === 'changed' || change === 'created' ? fieldsText(before, after, output) : []),
    ...warnings.map((warning) => output.paint('yellow', `    ! ${warning}`)),
  ])
  const counts = (['created', 'changed', 'removed', 'unchanged'] as const).map(
    (kind) => `${changes.filter(({ change }) => change === kind).length} ${kind}`,
  )
  return [...lines, '', `${dryRun ? 'Nothing was changed; it would be: ' : ''}${counts.join(', ')}`].join('\n')
}

/** Each field that differs, as it was and as it is. */
function fieldsText(before: Policy | undefined, after: Policy | undefined, output: Output): string[] {
  const [old, now] = [flat(before ?? {}), flat(after ?? {})]
  return [...new Set([...now.keys(), ...old.keys()])]
    .filter((field) => field !== 'name' && old.get(field) !== now.get(field))
    .map((field) => {
      const [was, is] = [old.get(field), now.get(field)].map((value) => (value === undefined ? undefined : plain(value)))
      if (was === undefined) return `    ${field}: ${output.paint('green', is ?? '')}`
      return `    ${field}: ${output.paint('red', was)} → ${is === undefined ? 'not given' : output.paint('green', is)}`
    })
}

/** Fields below fields by their path; lists as they are written. */
function flat(value: object, path = ''): Map<string, string> {
  const fields = new Map<string, string>()
  for (const [name, field] of Object.entries(value)) {
    const at = path === '' ? name : `${path}.${name}`
    if (typeof field === 'object' && field !== null && !Array.isArray(field)) {
      for (const [below, text] of flat(field as object, at)) fields.set(below, text)
    } else fields.set(at, typeof field === 'string' ? field : JSON.stringify(field))
  }
  return fields
}

const BAR = 40

function previewText(preview: Preview, output: Output): string {
  const { name, credentials, selectedByOthers, period, turn, starts, oldest, days: ahead, waves, warnings } = preview
  const most = Math.max(1, ...ahead.map((day) => day.starts))
  const lines = [
    `${name}  ${credentialsText(credentials)}, period ${period}, each in turn within ${turn}`,
    ...selectedByOthers.map(
      (other) => `${credentialsText(other.credentials)} that it selects too: ${other.policy} is more specific`,
    ),
    ...warnings.map((warning) => output.paint('yellow', `! ${warning}`)),
    `${starts} rotation${starts === 1 ? '' : 's'} in ${ahead.length} days${oldest === undefined ? '' : `; the oldest key is ${oldest} old when it is replaced`}`,
  ]
  if (waves.length > 1) {
    for (const wave of waves) {
      const when =
        wave.firstAt === undefined ? 'not in these days' : `${clock(wave.firstAt)} to ${clock(wave.lastAt ?? wave.firstAt)}`
      lines.push(`wave ${wave.wave}: ${wave.starts}  ${when}`)
    }
  }
  const rows = ahead.map((day) => [
    day.date,
    String(day.starts),
    '▇'.repeat(Math.ceil((day.starts / most) * BAR)),
    day.closed === '0s' ? '' : output.paint('dim', `closed ${day.closed}`),
  ])
  return [...lines, '', table(['day', 'rotations', '', ''], rows)].join('\n')
}
