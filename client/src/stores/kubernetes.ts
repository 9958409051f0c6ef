/**
 * A Secret of Kubernetes; its `resourceVersion` is the compare-and-set. Node's own https, for the cluster's certificate authority is one
 * that `fetch` can not be told of.
 */
import { readFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { type Store, StoreConflict, StoreError } from '../store.ts'
import { credentialOf, type FieldOptions, type Fields, withCredential } from './fields.ts'
import { isObject, noAnswer, parseJson, provided, within } from './remote.ts'

export interface KubernetesOptions extends FieldOptions {
  /** Of the Secret. One that is not there is made, where the service account may. */
  readonly name: string
  /** The pod's own unless given. */
  readonly namespace?: string
  /** Of the API server; in a pod it is known. */
  readonly address?: string
  /** Asked before each request; the pod's service account unless given. */
  readonly token?: () => string | Promise<string>
  /** PEM; the pod's unless given. */
  readonly ca?: string
}

const POD = '/var/run/secrets/kubernetes.io/serviceaccount'
const LARGEST = 4 * 1024 * 1024

interface Answer {
  readonly status: number
  readonly body: unknown
}

interface Secret {
  /** The Secret as the server gave it, so that labels, owners and the like stay. */
  readonly whole: Fields
  readonly data: Fields
  readonly fields: Fields
  readonly resourceVersion: string
}

/** The service account needs `get` and `update` of this one Secret, and `create` where it is not there yet. */
export function kubernetesStore(options: KubernetesOptions): Store {
  const { name } = options
  const namespace = options.namespace ?? ofPod('namespace', 'Which namespace? Give `namespace`.').trim()
  const address = options.address ?? inCluster()
  const ca = options.ca ?? (options.address === undefined ? ofPod('ca.crt', 'Give `ca`.') : undefined)
  // Kubernetes renews the file.
  const token = options.token ?? (() => ofPod('token', 'Give `token`.').trim())
  const secrets = new URL(`${address.replace(/\/+$/, '')}/api/v1/namespaces/${encodeURIComponent(namespace)}/secrets`)
  const where = `the Secret ${namespace}/${name} of Kubernetes`

  async function call(method: string, under: string, body: object | undefined, signal: AbortSignal | undefined): Promise<Answer> {
    const url = new URL(`${secrets.pathname}${under}`, secrets)
    const shown = await provided(token, where)
    const headers = { authorization: `Bearer ${shown}`, accept: 'application/json', 'content-type': 'application/json' }
    const sent = body === undefined ? undefined : JSON.stringify(body)
    try {
      return await exchange(url, { method, headers, ca, signal: within(signal) }, sent)
    } catch (error) {
      throw noAnswer(error, signal, where)
    }
  }

  /** Kubernetes' own messages are not passed on: some quote the object that they refuse. */
  function refusal({ status, body }: Answer): StoreError {
    const reason = isObject(body) && typeof body['reason'] === 'string' ? body['reason'].slice(0, 100) : 'no reason given'
    if (status === 401 || status === 403) {
      const message = `${where} is not for this service account (${reason}): its role needs get, update and create of it.`
      return new StoreError('not-allowed', message)
    }
    if (status === 413) return new StoreError('no-space', `${where} has no room for it (${reason}).`)
    if (status === 429 || status >= 500)
      return new StoreError('unreachable', `${where} can not be reached now: the API server answered ${status} (${reason}).`)
    return new StoreError('failed', `${where}: the API server answered ${status} (${reason}).`)
  }

  async function look(signal: AbortSignal | undefined): Promise<Secret | undefined> {
    const answer = await call('GET', `/${encodeURIComponent(name)}`, undefined, signal)
    const { status, body } = answer
    if (status === 404 && isObject(body) && body['kind'] === 'Status') return undefined
    if (status !== 200) throw refusal(answer)
    const metadata = isObject(body) ? body['metadata'] : undefined
    const resourceVersion = isObject(metadata) ? metadata['resourceVersion'] : undefined
    if (!isObject(body) || typeof resourceVersion !== 'string')
      throw new StoreError('failed', `${where}: what answers is not an API server of Kubernetes.`)
    const data = isObject(body['data']) ? body['data'] : {}
    return { whole: body, data, fields: decoded(data), resourceVersion }
  }

  const held = (secret: Secret | undefined) => (secret === undefined ? undefined : credentialOf(secret.fields, where, options))

  return {
    async read(signal) {
      const secret = await look(signal)
      const value = held(secret)
      return secret === undefined || value === undefined ? undefined : { value, version: secret.resourceVersion }
    },

    async replace(next, after, signal) {
      const secret = await look(signal)
      if ((held(secret) === undefined ? undefined : secret?.resourceVersion) !== after) throw new StoreConflict()
      const written = withCredential(next, {}, options)
      const data = Object.fromEntries(
        Object.entries(written).map(([field, text]) => [field, Buffer.from(String(text)).toString('base64')]),
      )
      const made = { apiVersion: 'v1', kind: 'Secret', type: 'Opaque', metadata: { name, namespace }, data }
      const answer =
        secret === undefined
          ? await call('POST', '', made, signal)
          : // It has the resourceVersion that was read: the server refuses it when the Secret has another one by now.
            await call('PUT', `/${encodeURIComponent(name)}`, { ...secret.whole, data: { ...secret.data, ...data } }, signal)
      if (answer.status === 409) throw new StoreConflict()
      const metadata = isObject(answer.body) ? answer.body['metadata'] : undefined
      const version = isObject(metadata) ? metadata['resourceVersion'] : undefined
      if ((answer.status !== 200 && answer.status !== 201) || typeof version !== 'string') throw refusal(answer)
      return version
    },
  }
}

/** The values of a Secret are base64; those that are not text are not ours. */
function decoded(data: Fields): Fields {
  return Object.fromEntries(
    Object.entries(data).map(([field, value]) => [field, Buffer.from(String(value), 'base64').toString('utf8')]),
  )
}

function inCluster(): string {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = '443' } = process.env
  if (!host) throw new TypeError('Where is the API server of Kubernetes? Outside of a pod, give `address`.')
  return `https://${host.includes(':') ? `[${host}]` : host}:${port}`
}

function ofPod(file: string, instead: string): string {
  try {
    return readFileSync(`${POD}/${file}`, 'utf8')
  } catch (cause) {
    throw new StoreError('not-allowed', `${POD}/${file} can not be read. ${instead}`, { cause })
  }
}

interface Exchange {
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly ca: string | undefined
  readonly signal: AbortSignal
}

function exchange(url: URL, { ca, ...options }: Exchange, body: string | undefined): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const open = url.protocol === 'https:' ? httpsRequest : httpRequest
    const request = open(url, { ...options, ...(ca === undefined ? {} : { ca }) }, (response) => {
      const chunks: Buffer[] = []
      let size = 0
      response.on('data', (chunk: Buffer) => {
        size += chunk.length
        if (size > LARGEST) request.destroy(new Error('the answer is too large'))
        else chunks.push(chunk)
      })
      response.on('error', reject)
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, body: parseJson(Buffer.concat(chunks).toString('utf8')) })
      })
    })
    request.on('error', reject)
    request.end(body)
  })
}
