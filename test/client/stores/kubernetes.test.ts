/** A Secret of Kubernetes. The API server is a double: see test/support/kubernetes-double.ts. */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type KubernetesOptions, kubernetesStore } from '../../../client/src/kubernetes.ts'
import { type KubernetesDouble, NAMESPACE, startKubernetesDouble } from '../../support/kubernetes-double.ts'
import { behavesAsStore, codeOf, holding, NOBODY, newKey, type Place } from './behaviour.ts'

let cluster: KubernetesDouble
beforeAll(async () => {
  cluster = await startKubernetesDouble()
})
afterAll(() => cluster.close())

const base64 = (text: string): string => Buffer.from(text).toString('base64')

function fresh() {
  const name = `acme-${randomBytes(4).toString('hex')}`
  const { address, ca, token } = cluster
  return {
    name,
    store: (more: Partial<KubernetesOptions> = {}) =>
      kubernetesStore({ name, namespace: NAMESPACE, address, ca, token: () => token, ...more }),
    async put(fields: Readonly<Record<string, string>>) {
      const data = Object.fromEntries(Object.entries(fields).map(([field, value]) => [field, base64(value)]))
      const { data: before, metadata } = cluster.secrets.get(name) ?? {}
      cluster.put(name, { ...(metadata === undefined ? {} : { metadata }), data: { ...before, ...data } })
    },
    async seen() {
      const data = Object.entries(cluster.secrets.get(name)?.data ?? {})
      return Object.fromEntries(data.map(([field, value]) => [field, Buffer.from(value, 'base64').toString('utf8')]))
    },
  } satisfies Place & Record<string, unknown>
}

behavesAsStore(fresh)

test('labels, owners and fields of others in the Secret stay', async () => {
  const { name, store } = fresh()
  const metadata = { labels: { app: 'shop' }, ownerReferences: [{ kind: 'Deployment', name: 'shop' }] }
  cluster.put(name, { metadata, data: { certificate: 'AP8=' } })
  expect(await store().read()).toBeUndefined()
  await store().replace(holding(newKey()), undefined)
  expect(cluster.secrets.get(name)).toMatchObject({ metadata, data: { certificate: 'AP8=', token: expect.any(String) } })
})

test('says what is wrong: no permission, another authority, no server, one that is overloaded, something else at its address', async () => {
  const { store } = fresh()
  const denied = await store({ token: () => 'expired' })
    .read()
    .catch((thrown: unknown) => thrown)
  expect(denied).toMatchObject({ code: 'not-allowed', message: expect.stringContaining('get, update and create') })
  await expect(store({ ca: '' }).read()).rejects.toMatchObject({
    code: 'unreachable',
    message: expect.stringMatching(/SELF_SIGNED|CERT/),
  })
  expect(await codeOf(store({ address: NOBODY }).read())).toBe('unreachable')
  for (const [status, body, code] of [
    [429, '{}', 'unreachable'],
    [500, '{"kind":"Status","reason":"InternalError"}', 'unreachable'],
    [413, '{"kind":"Status","reason":"RequestEntityTooLarge"}', 'no-space'],
    [404, 'not here', 'failed'],
    [200, '<html>a portal</html>', 'failed'],
  ] as const) {
    cluster.answerOnce(status, body)
    expect([status, await codeOf(store().read())]).toEqual([status, code])
  }
  expect(() => kubernetesStore({ name: 'shop' })).toThrow('Which namespace?')
  await expect(store().read(AbortSignal.abort(new Error('enough')))).rejects.toThrow('enough')
})
