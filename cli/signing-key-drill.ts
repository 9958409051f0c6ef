/** The drill that gives API and gateways another pair of keys for the answers without Kafka. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { everyoneFresh } from './outage-drills.ts'
import type { Practice } from './practice.ts'

export async function lostSigningKey(practice: Practice): Promise<void> {
  const { victim, gateways, check, type, everywhere, order, answers, aftermath } = practice
  const pair = await makePair(practice)
  if (pair === undefined) return
  await order({ do: 'restart', process: 'api', variables: { KEYTURN_SIGNING_KEY: pair.privateKey } })
  await check('the API is back, and signs with the new key', () => answers('kafka'))
  for (const [i, url] of gateways.entries()) {
    const name = `gateway-${i + 1}`
    await order({ do: 'restart', process: name, variables: { KEYTURN_GATEWAY_FALLBACK_PUBLIC_KEY: pair.publicKey } })
    await check(`${name} is back`, async () => (await fetch(`${url}/readyz`)).ok)
  }
  await order({ do: 'stop', server: 'kafka' })
  await check('Kafka is away', async () => !(await answers('kafka')))
  await type('the command has succeeded', ['emergency', victim.credentialId, '--reason', 'drill: the signing key was lost'])
  await check('every gateway believes the new signature, and refuses the key without Kafka', () =>
    everywhere(victim.token, false),
  )
  await check('no gateway has refused an answer', async () =>
    (await Promise.all(gateways.map(refusedAnswers))).every((n) => n === 0),
  )
  await order({ do: 'start', server: 'kafka' })
  await everyoneFresh(practice)
  await aftermath()
  await order({ do: 'keep' })
}

/** As the playbook makes it; the files are gone again when their content is read. */
async function makePair({ check, say }: Practice): Promise<{ privateKey: string; publicKey: string } | undefined> {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-drill-'))
  try {
    let code: number | null = 0
    for (const args of [
      ['genpkey', '-algorithm', 'ed25519', '-out', 'signing.pem'],
      ['pkey', '-in', 'signing.pem', '-pubout', '-out', 'signing.pub.pem'],
    ]) {
      say(`openssl ${args.join(' ')}`)
      if (code === 0) code = await openssl(args, directory)
    }
    await check('there is a new pair', async () => code === 0)
    const read = (name: string): string => readFileSync(join(directory, name), 'utf8')
    return code === 0 ? { privateKey: read('signing.pem'), publicKey: read('signing.pub.pem') } : undefined
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** @returns nothing when it could not be started */
async function openssl(args: readonly string[], cwd: string): Promise<number | null> {
  const child = spawn('openssl', args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] })
  try {
    const [code] = (await once(child, 'close')) as [number | null]
    return code
  } catch {
    return null
  }
}

async function refusedAnswers(gateway: string): Promise<number> {
  const metrics = await (await fetch(`${gateway}/metrics`)).text()
  return Number(/^keyturn_gateway_fallback_refused_total(?:\{.*\})? (\d+)$/m.exec(metrics)?.[1] ?? Number.NaN)
}
