/** Rotations that were recorded once go on under today's code: CONTRIBUTING.md says what to do when this fails. */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import proto from '@temporalio/proto'
import { Worker } from '@temporalio/worker'
import { expect, inject, test } from 'vitest'

const HISTORIES = fileURLToPath(new URL('../histories', import.meta.url))

const recorded = readdirSync(HISTORIES)
  .filter((file) => file.endsWith('.history'))
  .map((file) => ({
    workflowId: file.replace('.history', ''),
    history: proto.temporal.api.history.v1.History.decode(readFileSync(`${HISTORIES}/${file}`)),
  }))

const replay = async (code: string): Promise<string[]> => {
  const failed: string[] = []
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle: { code } }, recorded)) {
    if (error !== undefined) failed.push(`${workflowId}: ${error.message}`)
  }
  return failed
}

test('G8: every recorded rotation replays on the code of today', async () => {
  expect(recorded.length).toBeGreaterThanOrEqual(30)
  expect(await replay(readFileSync(inject('workflowBundle'), 'utf8'))).toEqual([])
})

test('G8: the replay can fail: code that does something else is found out', async () => {
  const code = readFileSync(inject('workflowBundle'), 'utf8')
  const changed = [
    ['records.openRotation(', 'records.readEvidence('],
    ['(left).deliver(', '(left).raiseAlert('],
    ['givenUp.giveUpOn(', 'givenUp.raiseAlert('],
  ].reduce((text, [was = '', is = '']) => text.replaceAll(was, is), code)
  expect(await replay(changed)).toHaveLength(recorded.length)
})
