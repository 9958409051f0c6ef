import { expect, onTestFinished, test, vi } from 'vitest'
import { createKafka } from '../../activities/kafka.ts'
import { recoverRegistry } from '../../activities/recovery.ts'
import { republishAll } from '../../activities/republish.ts'
import { verifyAudit } from '../../registry/audit.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { endLostRotations } from '../../workers/lost-rotations.ts'
import { startRotationWorker } from '../../workers/rotation-worker.ts'
import { emptyDirectory, runKeyturn } from '../cli/office.ts'
import { backUp } from '../support/databases.ts'
import { eventually, type House } from '../support/house.ts'
import { linesOf, registryLines } from '../support/key-lines.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf } from '../support/processes.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 5 * 60_000 })
const POLICY = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0, receiptWaitMs: 30_000 } as const

async function open(): Promise<House> {
  const house = await openHouse({ time: 'real', gateways: 2, worker: false, collector: false })
  onTestFinished(() => house.close())
  return house
}
async function withWorker(house: House): Promise<() => Promise<void>> {
  const worker = await startRotationWorker(house.config, house.log)
  return () => worker.stop()
}
const servers = (house: House) => ({
  db: house.db,
  kafka: createKafka(house.config.kafkaBrokers, 'test', house.log),
  topics: house.config.topics,
  log: house.log,
})
const recover = (house: House, options: { dryRun?: boolean; deactivateUnknown?: boolean } = {}) =>
  recoverRegistry(servers(house), {
    dryRun: false,
    deactivateUnknown: false,
    reason: 'restored',
    actor: 'test',
    at: new Date(),
    ...options,
  })
const kill = (house: House, { keyId }: { keyId: Parameters<typeof compromiseKey>[1]['keyId'] }) =>
  compromiseKey(house.db, { keyId, at: new Date(), actor: 'test', reason: 'leak' })
const publishedRefusal = (house: House, keyId: Parameters<House['propagation']['publish']>[0]) =>
  house.propagation.publish(keyId).then(
    () => 'published',
    (error: { code?: string }) => error.code,
  )

test('a key revoked since the backup comes alive nowhere: nothing is published before `recover`, and it stays dead after it', async () => {
  const house = await open()
  const [killed, rekilled, kept] = [await house.credential(), await house.credential(), await house.credential()]
  const backup = await backUp(house.config.postgresUrl)
  for (const each of [killed, rekilled]) {
    await kill(house, each)
    await house.propagation.publish(each.keyId)
  }
  const issued = await house.credential()
  // Of another kind, which its credential is entered with.
  await house.credential([], 'prod', [], { kind: 'hmac-sha256' })
  const dead = [killed.token, rekilled.token]
  await eventually(() => !dead.flatMap((token) => house.verdicts(token)).includes(true), 'dead at every gateway', PATIENCE_MS)
  const revived: string[] = []
  const watching = setInterval(() => revived.push(...dead.filter((token) => house.verdicts(token).includes(true))), 2)
  onTestFinished(() => clearInterval(watching))

  await backup.restore()
  expect([await house.keyState(killed.keyId), await house.keyState(issued.keyId)]).toEqual(['active', undefined])
  expect(await publishedRefusal(house, killed.keyId)).toBe('registry-restored')
  await expect(republishAll(servers(house))).rejects.toMatchObject({ code: 'registry-restored' })
  // What happens to the restored registry before anyone looks: revisions that the topic has given to other changes.
  await house.db.tx(async (tx) => {
    await tx.query(
      `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash)
      select 0, now(), 'test', 'key.deprecated', $1, n, '{}', '', '' from generate_series(2, 2) n`,
      [rekilled.keyId],
    )
    await tx.query(
      `update keys set event = 'keyturn.key.deprecated', revision = 2, sunset_at = now(), successor = 2 where key_id = $1`,
      [rekilled.keyId],
    )
  })
  expect(await publishedRefusal(house, rekilled.keyId)).toBe('registry-restored')

  const look = await recover(house, { dryRun: true })
  const kinds = new Map(look.differences.map(({ keyId, kind }) => [keyId, kind]))
  expect([kinds.get(killed.keyId), kinds.get(rekilled.keyId), kinds.get(issued.keyId), kinds.get(kept.keyId)]).toEqual([
    'behind',
    'another-history',
    'unknown',
    undefined,
  ])
  expect(await house.keyState(killed.keyId)).toBe('active')
  await recover(house)
  for (const { keyId } of [killed, rekilled]) expect(await house.keyState(keyId)).toBe('compromised')
  const expected = JSON.stringify(await registryLines(house.db))
  for (const gateway of house.gateways)
    await eventually(() => JSON.stringify(linesOf(gateway.cache)) === expected, 'the cache equals the registry', PATIENCE_MS)
  expect([house.verdicts(kept.token), house.verdicts(issued.token)]).toEqual([
    [true, true],
    [true, true],
  ])
  expect(await republishAll(servers(house))).toBe(5)
  expect((await recover(house)).differences).toEqual([])
  expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
  // What was issued since the backup is on record again, and can be killed.
  await kill(house, issued)
  await house.propagation.publish(issued.keyId)
  await eventually(() => !house.verdicts(issued.token).includes(true), 'refused', PATIENCE_MS)
  expect(revived).toEqual([])
})

test('the command tells what it is about, and --deactivate-unknown switches off what was issued since the backup', async () => {
  const house = await open()
  const directory = emptyDirectory()
  onTestFinished(directory.remove)
  const keyturn = (...args: string[]) => runKeyturn(args, { cwd: directory.path, env: environmentOf(house) })
  const backup = await backUp(house.config.postgresUrl)
  const issued = await house.credential()
  await backup.restore()
  const [republished, looked, unexplained] = await Promise.all([
    keyturn('republish'),
    keyturn('recover', '--dry-run'),
    keyturn('recover'),
  ])
  expect([republished.code, republished.stderr]).toEqual([1, expect.stringContaining('it was restored from a backup')])
  expect(republished.stderr).toContain('`keyturn recover --dry-run`')
  expect([looked.code, looked.stdout]).toEqual([0, expect.stringContaining(`${issued.keyId}  issued after the backup; active`)])
  expect([unexplained.code, unexplained.stderr]).toEqual([2, expect.stringContaining('--reason')])
  expect(await house.keyState(issued.keyId)).toBeUndefined()

  const recovered = await keyturn('recover', '--deactivate-unknown', '--reason', 'restored')
  expect([recovered.code, recovered.stdout]).toEqual([0, expect.stringContaining('1 key recovered and published')])
  await eventually(() => !house.verdicts(issued.token).includes(true), 'refused', PATIENCE_MS)
  expect(await house.keyState(issued.keyId)).toBe('deactivated')
  const again = await keyturn('recover', '--dry-run')
  expect([again.code, again.stdout]).toEqual([0, 'the registry knows all that the keys topic knows\n'])
})

test('a rotation that was lost is ended, its two keys stay accepted, and the next trigger goes on with them', async () => {
  const house = await open()
  const lost = await house.credential()
  const backup = await backUp(house.config.postgresUrl)
  const stop = await withWorker(house)
  const rotation = await house.rotate(lost.credentialId, POLICY)
  await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
  const newToken = await house.claimNewKey(rotation.rotationId)
  await stop()
  await backup.restore()
  const again = await withWorker(house)
  onTestFinished(again)
  const { settled } = await recover(house)
  expect(settled).toEqual([{ credentialId: lost.credentialId, beside: [], opened: expect.stringMatching(/^rot_/) }])
  const ended = await endLostRotations(house.config, house.db, 'restored')
  expect(ended).toEqual([{ credentialId: lost.credentialId, rotationId: rotation.rotationId }])
  expect([house.verdicts(lost.token), house.verdicts(newToken)]).toEqual([
    [true, true],
    [true, true],
  ])

  const next = await house.trigger(lost.credentialId, POLICY, 'emergency')
  expect(next.rotationId).not.toBe(rotation.rotationId)
  const opened = settled[0]?.opened ?? expect.fail()
  await house.reached(opened, 'completed', PATIENCE_MS)
  expect([house.verdicts(lost.token), house.verdicts(newToken)]).toEqual([
    [false, false],
    [true, true],
  ])
})
