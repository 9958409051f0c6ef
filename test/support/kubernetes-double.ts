/**
 * A double of Kubernetes' API server, not the real one: it knows Secrets of one namespace alone, with what a store relies on of the real
 * one: `resourceVersion` as a precondition of PUT, 409 for a name that is taken, 403 for other tokens, TLS with an authority of its own.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface SecretObject {
  readonly metadata: Readonly<Record<string, unknown>> & { readonly name: string; readonly resourceVersion?: string }
  readonly data?: Readonly<Record<string, string>>
}

export interface KubernetesDouble {
  readonly address: string
  /** PEM. */
  readonly ca: string
  readonly token: string
  readonly secrets: Map<string, SecretObject>
  put(name: string, object: Omit<SecretObject, 'metadata'> & { metadata?: object }): void
  /** Answers the next request with this instead. */
  answerOnce(status: number, body: string): void
  close(): void
}

export const NAMESPACE = 'shop'

export async function startKubernetesDouble(): Promise<KubernetesDouble> {
  const { key, cert } = selfSigned()
  const token = 'token-of-the-pod'
  const secrets = new Map<string, SecretObject>()
  let revision = 100
  let instead: { status: number; body: string } | undefined

  const put: KubernetesDouble['put'] = (name, object) => {
    revision += 1
    secrets.set(name, {
      ...object,
      metadata: { namespace: NAMESPACE, ...object.metadata, name, resourceVersion: String(revision) },
    })
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const say = (status: number, body: object): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    const refuse = (status: number, reason: string): void =>
      say(status, { kind: 'Status', status: 'Failure', reason, code: status })
    const text = await bodyOf(request)
    if (instead !== undefined) {
      const { status, body } = instead
      instead = undefined
      response.writeHead(status).end(body)
      return
    }
    if (request.headers.authorization !== `Bearer ${token}`) return refuse(403, 'Forbidden')
    const [, name] = /^\/api\/v1\/namespaces\/shop\/secrets(?:\/([^/]+))?$/.exec(request.url ?? '') ?? ['', 'no such path']
    if (request.method === 'POST') {
      const sent = JSON.parse(text) as SecretObject
      if (secrets.has(sent.metadata.name)) return refuse(409, 'AlreadyExists')
      put(sent.metadata.name, sent)
      return say(201, secrets.get(sent.metadata.name) as SecretObject)
    }
    const found = secrets.get(name ?? '')
    if (found === undefined) return refuse(404, 'NotFound')
    if (request.method === 'GET') return say(200, found)
    const sent = JSON.parse(text) as SecretObject
    if (sent.metadata.resourceVersion !== found.metadata.resourceVersion) return refuse(409, 'Conflict')
    put(found.metadata.name, sent)
    say(200, secrets.get(found.metadata.name) as SecretObject)
  }

  const server = createServer({ key, cert }, (request, response) => void answer(request, response))
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  return {
    address: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ca: cert,
    token,
    secrets,
    put,
    answerOnce: (status, body) => {
      instead = { status, body }
    },
    close: () => server.close(),
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

function selfSigned(): { key: string; cert: string } {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-tls-'))
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')]
  const of = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=kubernetes']
  execFileSync('openssl', ['req', '-x509', ...of, '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert], {
    stdio: 'ignore',
  })
  const pair = { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') }
  rmSync(directory, { recursive: true })
  return pair
}
