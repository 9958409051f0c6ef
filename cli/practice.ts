/** What every drill works with: a client of its own, the checklist, and the commands as a person would type them. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as pause } from 'node:timers/promises'
import type { Order } from '../infra/demo/orders.ts'
import type { ServiceName } from '../infra/stack/index.ts'
import type { RotationAnswer, RotationSummary } from './answers.ts'
import type { Context } from './context.ts'
import { Failure } from './failure.ts'
import type { Api } from './http.ts'

const LOOK_AGAIN_MS = 200

export interface Checked {
  readonly what: string
  readonly ok: boolean
}

/** A client that only this drill knows, with a key that it has fetched. It stays on record, like every client. */
export interface Victim {
  readonly clientId: string
  readonly credentialId: string
  readonly keyId: string
  /** What the client was given, and somebody else has now. */
  readonly token: string
}

export interface Practice {
  readonly api: Api
  readonly victim: Victim
  /** The addresses of the gateways: `gateway-1`, `gateway-2`, … */
  readonly gateways: readonly string[]
  /** Polls, and puts a tick or a cross on the list. */
  check(what: string, holds: () => Promise<boolean>): Promise<void>
  /** Types a command of the playbook, and checks that it ends with the exit code. */
  type(what: string, args: readonly string[], options?: { readonly input?: string; readonly code?: number }): Promise<void>
  /** Shows a line of what is done. */
  say(line: string): void
  /** Whether every gateway accepts a token, or refuses it. */
  everywhere(token: string, accepted: boolean): Promise<boolean>
  /** The new key, once the client has fetched it with the claim it was sent. */
  newToken(): Promise<string | undefined>
  /** What has to be so after every emergency: the client goes on with a new key, and it is all on record. */
  aftermath(): Promise<void>
  /** To the `npm start` that this runs on. */
  order(order: Order): Promise<void>
  /** Whether the API finds a server. */
  answers(server: ServiceName): Promise<boolean>
}

export interface PracticeOptions extends Pick<Practice, 'gateways' | 'order'> {
  /** The address of the API. */
  readonly apiUrl: string
  /** How long each point of the checklist may take. */
  readonly withinMs: number
}

/** Runs the steps for a client that is made for them, whose key every gateway accepts. @returns the checklist */
export async function practise(
  { api, output }: Context,
  { gateways, order, apiUrl, withinMs }: PracticeOptions,
  steps: (practice: Practice) => Promise<void>,
): Promise<readonly Checked[]> {
  const checks: Checked[] = []
  const check: Practice['check'] = async (what, holds) => {
    const ok = await within(withinMs, holds)
    checks.push({ what, ok })
    output.line(`${ok ? output.paint('green', '✓') : output.paint('red', '✗')} ${what}`)
  }
  const everywhere: Practice['everywhere'] = async (token, accepted) =>
    (await Promise.all(gateways.map((url) => accepts(url, token)))).every((answer) => answer === accepted)
  const say = (line: string): void => output.line(`  ${line}`)

  const post = await startWebhook()
  try {
    const victim = await makeVictim(api, post.url)
    await check(`every gateway (${gateways.length}) accepts the key of ${victim.credentialId}`, () =>
      everywhere(victim.token, true),
    )
    await steps({
      api,
      victim,
      gateways,
      check,
      say,
      everywhere,
      order,
      newToken: () => post.claimed(),
      async answers(server) {
        const ready = (await (await fetch(`${apiUrl}/readyz`)).json()) as Readonly<Record<string, string>>
        return ready[server] === 'ok'
      },
      async type(what, args, { input, code = 0 } = {}) {
        say(`keyturn ${args.map(quoted).join(' ')}`)
        // What it is to refuse it need not say here.
        const ended = await keyturn(args, input, code === 0 ? 'inherit' : 'ignore')
        await check(what, async () => ended === code)
      },
      async aftermath() {
        await check('the client was told, and has fetched its new key, which every gateway accepts', async () => {
          const token = await post.claimed()
          return token !== undefined && everywhere(token, true)
        })
        await check('the claim does not hand the key out a second time', async () => (await post.claimAgain()) === 410)
        await check('the rotation is completed, and every receipt is complete', async () => {
          const latest = await latestRotation(api, victim)
          const whole = latest?.receipts.every(({ unconfirmed }) => unconfirmed.length === 0)
          return latest?.stage === 'completed' && latest.receipts.length > 0 && whole === true
        })
        await check('the audit log has the end of the key, once', async () => {
          const { entries } = await api.get<{ entries: { action: string }[] }>('/v1/audit', { subject: victim.keyId })
          return entries.filter(({ action }) => action === 'key.compromised').length === 1
        })
        const verified = await keyturn(['audit', 'verify'])
        await check('the audit log is as it was written (`keyturn audit verify`)', async () => verified === 0)
      },
    })
  } finally {
    post.server.close()
  }
  return checks
}

export async function latestRotation(api: Api, { credentialId }: Victim): Promise<RotationAnswer | undefined> {
  const query = { credential: credentialId, limit: '1' }
  const [latest] = (await api.get<{ rotations: RotationSummary[] }>('/v1/rotations', query)).rotations
  return latest === undefined ? undefined : api.get<RotationAnswer>(`/v1/rotations/${latest.rotationId}`)
}

async function makeVictim(api: Api, url: string): Promise<Victim> {
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
async function keyturn(args: readonly string[], input = '', errors: 'inherit' | 'ignore' = 'inherit'): Promise<number | null> {
  const program = process.argv[1]
  if (program === undefined) throw new Failure('The command does not know where it is')
  const child = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'ignore', errors] })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  return code
}

const quoted = (word: string): string => (/^[\w:./=-]+$/.test(word) ? word : `'${word}'`)
