import { setTimeout as pause } from 'node:timers/promises'
import type { Command } from 'commander'
import { type Context, command, withApi } from './context.ts'
import { EXIT } from './failure.ts'

interface ResealAnswer {
  readonly kekId: string
  readonly resealed: number
  readonly left: readonly { readonly kekId: string; readonly count: number; readonly held: boolean }[]
  readonly unconfirmed: readonly string[]
}

/** What somebody has locked is tried again so often. */
const IDLE_TRIES = 5
const PAUSE_MS = 1_000

export const resealCommand = (): Command =>
  command('reseal', 'after a change of the key-encryption key: move what the old one has sealed to the new one')
    .option('--reason <text>', 'for the audit log')
    .action(withApi(reseal))

async function reseal({ api, output }: Context, { reason }: { reason?: string }): Promise<void> {
  let resealed = 0
  for (let idle = 0; ; ) {
    const answer = await api.post<ResealAnswer>('/v1/reseal', reason === undefined ? {} : { reason })
    resealed += answer.resealed
    idle = answer.resealed > 0 ? 0 : idle + 1
    if (answer.left.some(({ held }) => held) && idle < IDLE_TRIES) {
      if (!output.json) output.note(`${resealed} secrets moved so far`)
      if (idle > 0) await pause(PAUSE_MS)
      continue
    }
    if (answer.left.length + answer.unconfirmed.length > 0) process.exitCode = EXIT.failed
    return output.result({ ...answer, resealed }, () => resealText({ ...answer, resealed }))
  }
}

function resealText({ kekId, resealed, left, unconfirmed }: ResealAnswer): string {
  const lines = [`${resealed} secret${resealed === 1 ? '' : 's'} moved to key-encryption key ${kekId}`]
  if (unconfirmed.length > 0)
    lines.push(
      `${unconfirmed.join(', ')} still need${unconfirmed.length === 1 ? 's' : ''} the old key: bring back or declare gone what is silent, and run this again`,
    )
  else if (left.length === 0) lines.push('Nothing is left under another: the old key can be taken away.')
  for (const { kekId: other, count, held } of left)
    lines.push(
      `${count} left under ${other}${held ? ': run this again' : ', which the API does not have: give it as the second of KEYTURN_KEK'}`,
    )
  return lines.join('\n')
}
