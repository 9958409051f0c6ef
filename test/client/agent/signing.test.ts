/** The agent for keys that sign, against the real API, in front of a real gateway. The program is played by the test. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readFirst } from '../../../client/src/agent.ts'
import { keyIdOf } from '../../../client/src/given.ts'
import type { PrivateJwk, StoredKey } from '../../../client/src/index.ts'
import { newPair } from '../../../client/src/key-pairs.ts'
import { shownBy } from '../../../client/src/signing.ts'
import { apiHouse, type CreatedBody, type HandedOutBody, newClient, reached, trigger } from '../../api/support.ts'
import { eventually } from '../../support/house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../../support/processes.ts'
import { agentPlace, keyIn, startAgent, usedFrom } from './support.ts'

// Clients sign for the address that they know.
const at = apiHouse({ gateways: 0 }, async () => ({ config: { publicUrl: 'http://127.0.0.1:0' } }))
let gateway: GatewayProcess
let upstream: Awaited<ReturnType<typeof startUpstream>>
beforeAll(async () => {
  upstream = await startUpstream()
  gateway = await startGatewayProcess(at.house, 'gw-1', { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
})
afterAll(async () => {
  await gateway?.stop()
  upstream?.server.close()
})

type Kind = 'hmac-sha256' | 'ed25519'

function readKey(text: string): StoredKey {
  if (!text.startsWith('{')) return { keyId: keyIdOf(text) ?? '', kind: 'hmac-sha256', token: text }
  const { kid, ...privateKey } = JSON.parse(text) as PrivateJwk & { kid: string }
  return { keyId: kid, kind: 'ed25519', privateKey }
}

async function call(text: string): Promise<number> {
  const url = `${gateway.url}/v1/ticker`
  const headers = await shownBy(readKey(text), { method: 'GET', url, body: undefined, now: Date.now() })
  const response = await fetch(url, { headers })
  await response.arrayBuffer()
  return response.status
}

/** A key as a file holds it. */
async function given(kind: Kind): Promise<CreatedBody & { text: string }> {
  const made = { name: 'feed', environment: 'prod', scopes: ['read:prices'], kind }
  const created = (await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, made)).body
  const pair = kind === 'ed25519' ? await newPair(kind) : undefined
  const body = pair === undefined ? undefined : { publicKey: Buffer.from(pair.x, 'base64url').toString('base64') }
  const handed = (await at.client.post<HandedOutBody>(`/v1/claims/${created.claim}`, body, { token: 'none' })).body
  return { ...created, text: pair === undefined ? handed.token : JSON.stringify({ ...pair, kid: handed.keyId }) }
}

describe.each(['hmac-sha256', 'ed25519'] as const)('%s', (kind) => {
  test('claims the new key by a signature, writes it, and is done when gateways have seen it in use', async () => {
    const { credentialId, keyId, text } = await given(kind)
    const { keyFile, directory, config } = agentPlace(at.client.url)
    const agent = startAgent({
      config: config('echo $KEYTURN_KEY_ID >> told', { used: '60s' }, { kind }),
      ...readFirst({ kind }, { key: `${text}\n` }),
    })
    await agent.said('switching')
    usedFrom(keyFile, call)
    await agent.said('switched')
    expect(readKey(keyIn(keyFile))).toEqual(readKey(text))
    const { rotationId } = (await trigger(at.client, credentialId, { quietPeriod: '1s' })).body
    await agent.said('switched', 2)
    await reached(at.client, rotationId, 'completed')
    const { newKeyId } = await at.house.rotation(rotationId)
    expect((await agent.store.read())?.value).toMatchObject({ current: { keyId: newKeyId, kind }, previous: { keyId, kind } })
    expect(readFileSync(join(directory, 'told'), 'utf8')).toBe(`${keyId}\n${newKeyId}\n`)
    expect(await call(keyIn(keyFile))).toBe(200)
    expect(JSON.stringify(agent.events)).not.toMatch(/kt_prod_|"d":/)
  })

  test('puts the old key back when the program does not come up with the new one', async () => {
    const { credentialId, keyId, text } = await given(kind)
    const { keyFile, directory, config } = agentPlace(at.client.url)
    writeFileSync(join(directory, 'works-with'), keyId)
    const script = '[ -e all-is-well ] || [ "$KEYTURN_KEY_ID" = "$(cat works-with)" ]'
    const agent = startAgent({ config: config(script, { used: '60s' }, { kind }), ...readFirst({ kind }, { key: text }) })
    usedFrom(keyFile, call)
    await agent.said('switched')
    await trigger(at.client, credentialId, { quietPeriod: '5m' })
    expect(await agent.said('put-back')).toMatchObject({ keyId })
    expect(readKey(keyIn(keyFile)).keyId).toBe(keyId)
    writeFileSync(join(directory, 'all-is-well'), '')
    await agent.said('switched', 2)
    await eventually(() => readKey(keyIn(keyFile)).keyId !== keyId, 'the new key')
    expect(agent.events.filter(({ type }) => type === 'claimed')).toHaveLength(1)
  })
})
