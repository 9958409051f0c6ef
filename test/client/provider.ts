/**
 * A provider in this process: a gateway's answers and the control plane's claims, as far as a client sees them, and what goes wrong with them when a test wants
 * it. A double: what clients and the real ones do together is in `rotation.test.ts` and `processes.test.ts`.
 */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { formatRotationNotice, HEADERS, newKeyId, newToken, type ProblemCode, problem } from '@keyturn/contract'
import { CompactEncrypt, importJWK, type JWK } from 'jose'
import { onTestFinished } from 'vitest'

export interface ProviderKey {
  readonly keyId: string
  readonly token: string
  readonly version: number
  state: 'active' | 'deactivated'
  /** Says so on each answer. */
  successor?: ProviderKey
}

export interface SeenRequest {
  readonly keyId: string | undefined
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly body: string
  readonly status: number
}

type Refusal = ProblemCode | { readonly status: number; readonly headers?: Record<string, string> }

export class Provider {
  readonly keys: ProviderKey[] = []
  /** Requests to the API. */
  readonly seen: SeenRequest[] = []
  /** Claims: the recipient of each, and what it got. */
  readonly claims: { readonly recipient: string; readonly status: number }[] = []
  /** What the next claims are refused with. */
  readonly refusals: Refusal[] = []
  /** What an accepted request is answered. */
  status = 200
  private handedTo = new Map<string, string>()
  url = ''

  static async start(): Promise<Provider> {
    const provider = new Provider()
    const server = createServer((request, response) => {
      provider.answer(request, response).catch(() => response.destroy())
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    provider.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    onTestFinished(async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    })
    return provider
  }

  issue(version = 1): ProviderKey {
    const keyId = newKeyId()
    const key: ProviderKey = { keyId, token: newToken({ brand: 'kt', environment: 'prod', keyId }), version, state: 'active' }
    this.keys.push(key)
    return key
  }

  rotate(old: ProviderKey): ProviderKey {
    old.successor = this.issue(old.version + 1)
    return old.successor
  }

  /** Key ids of the requests that were accepted. */
  get acceptedKeys(): (string | undefined)[] {
    return this.seen.filter(({ status }) => status < 400).map(({ keyId }) => keyId)
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const key = this.keys.find(({ token }) => request.headers.authorization === `Bearer ${token}`)
    const path = request.url ?? ''
    if (path === '/control/v1/keys/self') return tellOwnKey(key, response)
    if (path.startsWith('/control/')) return this.claim(path.slice('/control'.length), key, request, response)
    const accepted = key?.state === 'active'
    const seen = { keyId: key?.keyId, method: request.method ?? '', url: path, headers: request.headers }
    // As gateways do: a body is not waited for when the key is no good.
    const body = accepted ? await textOf(request) : ''
    const status = accepted ? this.status : 401
    this.seen.push({ ...seen, body, status })
    const notice = key?.successor && { sunset: new Date(Date.now() + 60_000), successor: key.successor.version }
    if (accepted && notice !== undefined) response.setHeader(HEADERS.rotation, formatRotationNotice(notice))
    if (accepted) response.writeHead(status).end(request.method === 'HEAD' ? undefined : `hello ${body}`)
    else refuse(response, 'invalid-key')
  }

  private async claim(path: string, key: ProviderKey | undefined, request: IncomingMessage, response: ServerResponse) {
    const { recipient } = JSON.parse(await textOf(request)) as { recipient: JWK }
    const thumbprint = createHash('sha256').update(JSON.stringify(recipient)).digest('hex')
    const answer = async (): Promise<number> => {
      const refusal = this.refusals.shift()
      if (typeof refusal === 'string') return refuse(response, refusal)
      if (refusal !== undefined) {
        response.writeHead(refusal.status, refusal.headers).end()
        return refusal.status
      }
      const code = /^\/v1\/claims\/(.+)$/.exec(path)?.[1]
      const successor = code === undefined ? key?.successor : this.keys.at(-1)
      if (code === undefined && key === undefined) return refuse(response, 'invalid-key')
      if (code === undefined && key?.state !== 'active') return refuse(response, 'successor-refused')
      if (successor === undefined) return refuse(response, 'no-successor')
      const handed = this.handedTo.get(successor.keyId)
      if (handed !== undefined && handed !== thumbprint) return refuse(response, 'claim-used')
      this.handedTo.set(successor.keyId, thumbprint)
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify(await handedOut(successor, recipient)))
      return 200
    }
    this.claims.push({ recipient: thumbprint, status: await answer() })
  }
}

/** What the API answers to a claim. */
export async function handedOut({ keyId, token }: Pick<ProviderKey, 'keyId' | 'token'>, recipient: JWK): Promise<object> {
  const jwe = await new CompactEncrypt(new TextEncoder().encode(token))
    .setProtectedHeader({ alg: 'ECDH-ES', enc: 'A256GCM' })
    .encrypt(await importJWK(recipient, 'ECDH-ES'))
  return { jwe, keyId }
}

async function textOf(request: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  return text
}

function tellOwnKey(key: ProviderKey | undefined, response: ServerResponse): void {
  if (key?.state !== 'active') return void refuse(response, 'invalid-key')
  const { keyId, version, successor } = key
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ keyId, version, successor: successor?.version }))
}

function refuse(response: ServerResponse, code: ProblemCode): number {
  const document = problem(code)
  response.writeHead(document.status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(document))
  return document.status
}

/** A claim's code, as there may be one. */
export const someCode = (): string => randomBytes(43).toString('hex').slice(0, 43)
