/** What a person may tell a running rotation. */
import type { RotationProgress } from '@keyturn/contract/rotation'
import type { Command } from 'commander'
import { command, withApi } from './context.ts'
import { duration } from './options.ts'
import { stageLine } from './rendering.ts'

const ORDERS: Readonly<Record<string, string>> = {
  approve: 'let a rotation go on that is held at its deadline, or because its policy asks for approval',
  hold: 'hold a rotation where it is',
  resume: 'let a held rotation go on',
  extend: 'move the end of the overlap window',
  'roll-back': 'make the old key the current one again',
  'deactivate-now': 'deactivate the old key whatever the evidence says',
  escalate: 'make the rotation an emergency: the old key dies first',
}

export function orderCommands(): Command[] {
  return Object.entries(ORDERS).map(([name, description]) => {
    const order = command(name, description).argument('<rotation>').requiredOption('--reason <text>', 'for the audit log')
    if (name === 'extend') order.option('--by <duration>', 'by how much: 7d', duration)
    return order.action(
      withApi(async ({ api, output }, rotationId: string, { reason, by }: { reason: string; by?: string }) => {
        const path = `/v1/rotations/${encodeURIComponent(rotationId)}/${name}`
        const progress = await api.post<RotationProgress>(path, { reason, by })
        const latest = progress.timeline.at(-1)
        output.result(progress, () =>
          [
            latest === undefined ? progress.stage : stageLine(latest, output),
            ...(progress.deadline === undefined ? [] : [`deadline ${progress.deadline}`]),
          ].join('\n'),
        )
      }),
    )
  })
}
