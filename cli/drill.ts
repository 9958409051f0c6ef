/** `keyturn drill <name>`: does on the local stack what a playbook says, and checks what has become of it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as pause } from 'node:timers/promises'
import { parseDuration } from '@keyturn/contract/duration'
import { Argument, type Command } from 'commander'
import type { RotationAnswer, RotationSummary } from './answers.ts'
import { type Context, command, withApi } from './context.ts'
import { DRILLS, type Victim } from './drills.ts'
import { EXIT, Failure } from './failure.ts'
import { duration } from './options.ts'
import { localStack } from './settings.ts'

const LOOK_AGAIN_MS = 200

export const drillCommand = (): Command =>
  command('drill', 'practise a playbook on the local stack, and check what came of it')
    .addArgument(new Argument('<name>', 'which playbook').choices(Object.keys(DRILLS)))
    .addHelpText(
      'after',
      `\n${Object.entries(DRILLS)
        .map(([name, { about }]) => `  ${name.padEnd(16)} ${about}`)
        .join('\n')}`,
    )
    .option('--within <duration>', 'how long each point of the checklist may take', duration, '60s')
    .action(async (name: string, options: { within: string }, self: Command) => {
      // Before anything that speaks to an API.
      const { gateways } = localStack(process.env, process.cwd())
      await withApi((context: Context) => run(context, { name, gateways, withinMs: parseDuration(options.within) }))(self)
    })

interface Checked {
  readonly what: string
  readonly ok: boolean
}

async function run(
  { api, output }: Context,
  { name, gateways, withinMs }: { name: string; gateways: readonly string[]; withinMs: number },
): Promise<void> {
  const drill = DRILLS[name]
  if (drill === undefined) throw new Failure(`There is no drill ${name}`)
  const checks: Checked[] = []
  const check = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
    const ok = await within(withinMs, holds)
    checks.push({ what, ok })
    output.line(`${ok ? output.paint('green', '✓') : output.paint('red', '✗')} ${what}`)
  }
  const everywhere = async (token: string, accepted: boolean): Promise<boolean> =>
    (await Promise.all(gateways.map((url) => accepts(url, token)))).every((answer) => answer === accepted)

  const post = await startWebhook()
  try {
    const { keyId, ...victim } = await makeVictim({ api, output }, post.url)
    await check(`every gateway (${gateways.length}) accepts the key of ${victim.credentialId}`, () =>
      everywhere(victim.token, true),
    )
    const { args, input } = drill.kill(victim)
    output.line(`  keyturn ${args.map(quoted).join(' ')}`)
    const code = await keyturn(args, input)
    await check('the command has succeeded', async () => code === 0)
    await check('every gateway refuses the key', () => everywhere(victim.token, false))
    await check('the client was told, and has fetched its new key, which every gateway accepts', async () => {
      const token = await post.claimed()
      return token !== undefined && everywhere(token, true)
    })
    await check('the claim does not hand the key out a second time', async () => (await post.claimAgain()) === 410)
    const query = { credential: victim.credentialId, limit: '1' }
    await check('the rotation is completed, and every receipt is complete', async () => {
      const [latest] = (await api.get<{ rotations: RotationSummary[] }>('/v1/rotations', query)).rotations
      if (latest === undefined) return false
      const { stage, receipts } = await api.get<RotationAnswer>(`/v1/rotations/${latest.rotationId}`)
      return stage === 'completed' && receipts.length > 0 && receipts.every(({ unconfirmed }) => unconfirmed.length === 0)
    })
    await check('the audit log has the end of the key, once', async () => {
      const { entries } = await api.get<{ entries: { action: string }[] }>('/v1/audit', { subject: keyId })
      return entries.filter(({ action }) => action === 'key.compromised').length === 1
    })
    const verified = await keyturn(['audit', 'verify'])
    await check('the audit log is as it was written (`keyturn audit verify`)', async () => verified === 0)
  } finally {
    post.server.close()
  }
  const failed = checks.filter(({ ok }) => !ok).length
  if (output.json) output.result({ drill: name, ok: failed === 0, checks }, () => '')
  else output.line(failed === 0 ? `${checks.length} of ${checks.length}: practised` : `${failed} of ${checks.length} failed`)
  if (failed > 0) process.exitCode = EXIT.failed
}

/** A client that only this drill knows, with a key that it has fetched. It stays on record, like every client. */
async function makeVictim({ api }: Context, url: string): Promise<Victim & { readonly keyId: string }> {
  const { clientId } = await api.post<{ clientId: string }>('/v1/clients', {
    name: 'drill',
    contacts: [{ channel: 'webhook', url }],
  })
  const { credentialId, keyId, claim } = await api.post<{ credentialId: string; keyId: string; claim: string }>(
    `/v1/clients/${clientId}/credentials`,
    { name: 'drill', environment: 'prod', scopes: ['trade:drill'] },
  )
  const { token } = await api.post<{ token: string }>(`/v1/claims/${claim}`, {})
  return { clientId, credentialId, keyId, token }
}

/** The client's side: takes the message, and fetches the new key as it says. */
async function startWebhook(): Promise<{
  readonly url: string
  readonly server: Server
  claimed(): Promise<string | undefined>
  claimAgain(): Promise<number | undefined>
}> {
  let claimUrl: string | undefined
  let token: string | undefined
  const server = createServer(async (request, response) => {
    const { data } = JSON.parse(await text(request)) as { data: { claimUrl?: string } }
    claimUrl ??= data.claimUrl
    response.writeHead(204).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const claim = async (url: string): Promise<Response> =>
    fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    server,
    async claimed() {
      if (token === undefined && claimUrl !== undefined) {
        const answer = await claim(claimUrl)
        if (answer.ok) token = ((await answer.json()) as { token: string }).token
      }
      return token
    },
    claimAgain: async () => (claimUrl === undefined ? undefined : (await claim(claimUrl)).status),
  }
}

/** Polls: what a command has begun comes about by itself, and whoever does not answer now may do so later. */
async function within(ms: number, holds: () => Promise<boolean>): Promise<boolean> {
  for (const giveUp = Date.now() + ms; ; await pause(LOOK_AGAIN_MS)) {
    const held = await holds().catch(() => false)
    if (held || Date.now() > giveUp) return held
  }
}

async function accepts(gateway: string, token: string): Promise<boolean> {
  const response = await fetch(gateway, { headers: { authorization: `Bearer ${token}` } })
  await response.body?.cancel()
  return response.status !== 401
}

/** The command itself, as a person would run it; what it says of success is for its exit code to tell. */
async function keyturn(args: readonly string[], input = ''): Promise<number | null> {
  const program = process.argv[1]
  if (program === undefined) throw new Failure('The command does not know where it is')
  const child = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'ignore', 'inherit'] })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  return code
}

const quoted = (word: string): string => (/^[\w:./=-]+$/.test(word) ? word : `'${word}'`)
