/** KV version 2 of a real OpenBao. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type VaultOptions, vaultStore } from '../../../client/src/vault.ts'
import { type Bao, findBao, startBao } from '../../support/openbao.ts'
import { behavesAsStore, codeOf, holding, NOBODY, newKey, type Place } from './behaviour.ts'

const command = await findBao((what) => process.stderr.write(`${what}\n`))

let bao: Bao
beforeAll(async () => {
  if (command !== undefined) bao = await startBao(command)
}, 180_000)
afterAll(() => bao?.stop())

function fresh(): Place & { path: string; store(more?: Partial<VaultOptions>): ReturnType<typeof vaultStore> } {
  const path = `team/acme ${randomBytes(4).toString('hex')}`
  const url = `${bao.address}/v1/secret/data/${path.replace(' ', '%20')}`
  return {
    path,
    store: (more = {}) => vaultStore({ address: `${bao.address}/`, token: () => bao.token, path, ...more }),
    put: (fields) => bao.call(`secret/data/${path.replace(' ', '%20')}`, { data: fields }),
    async seen() {
      const response = await fetch(url, { headers: { 'x-vault-token': bao.token } })
      return ((await response.json()) as { data: { data: Record<string, string> } }).data.data
    },
  }
}

describe.skipIf(command === undefined)('a secret of Vault', () => {
  behavesAsStore(fresh)

  test('a deleted secret is nothing there, and can be written again by one', async () => {
    const { store, path } = fresh()
    await store().replace(holding(newKey()), undefined)
    await bao.call(`secret/delete/${encodeURIComponent(path)}`, { versions: [1] })
    expect(await store().read()).toBeUndefined()
    const outcomes = await Promise.all([1, 2, 3].map(() => codeOf(store().replace(holding(newKey()), undefined))))
    expect(outcomes.sort()).toEqual(['conflict', 'conflict', 'no error'])
  })

  test('says what is wrong: no permission, no such engine, no server, a sealed one, a redirect', async () => {
    const { store } = fresh()
    const { auth } = await bao.call('auth/token/create', { policies: ['default'], no_parent: true })
    const denied = store({ token: () => auth?.client_token ?? '' })
    const error = await denied.read().catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'not-allowed', message: expect.stringContaining('policy lacks read') })
    expect(JSON.stringify(error)).not.toContain(auth?.client_token)
    expect(await codeOf(denied.replace(holding(newKey()), undefined))).toBe('not-allowed')
    expect(await codeOf(store({ token: () => '' }).read())).toBe('not-allowed')
    expect(await codeOf(store({ mount: 'nowhere' }).read())).toBe('failed')
    await expect(store({ address: NOBODY }).read()).rejects.toMatchObject({
      code: 'unreachable',
      message: expect.stringContaining('ECONNREFUSED'),
    })

    let answer: { status: number; headers?: Record<string, string>; body: string } = { status: 200, body: '' }
    const seen: string[] = []
    const double = createServer((request, response) => {
      seen.push(`${request.url}`)
      response.writeHead(answer.status, answer.headers).end(answer.body)
    }).listen(0, '127.0.0.1')
    onTestFinished(() => void double.close())
    await once(double, 'listening')
    const address = `http://127.0.0.1:${(double.address() as AddressInfo).port}`
    for (const [status, body, code] of [
      [503, '{"errors":["Vault is sealed"]}', 'unreachable'],
      [429, '{}', 'unreachable'],
      [413, '{"errors":[]}', 'no-space'],
      [200, '<html>a portal</html>', 'failed'],
      [200, '{"data":{"token":"of version 1"}}', 'failed'],
    ] as const) {
      answer = { status, body }
      expect([status, await codeOf(store({ address }).read())]).toEqual([status, code])
    }
    answer = { status: 307, headers: { location: `${address}/elsewhere` }, body: '' }
    expect(await codeOf(store({ address }).read())).toBe('unreachable')
    expect(seen).not.toContain('/elsewhere')
    const aborted = AbortSignal.abort(new Error('enough'))
    await expect(store().read(aborted)).rejects.toThrow('enough')
  })
})
