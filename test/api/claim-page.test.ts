import { generateKeyPairSync } from 'node:crypto'
import pino from 'pino'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { claimOfKey } from '../../registry/claims.ts'
import { browserAt, openBrowser } from '../support/browser.ts'
import { decrypt, newRecipient } from '../support/recipients.ts'
import { newPublicKey } from '../support/shown.ts'
import { apiHouse, type CreatedBody, claimedCredential, newClient, newCredential, reached, redeem, trigger } from './support.ts'

const lines: string[] = []
const at = apiHouse({}, async () => ({ log: pino({ level: 'trace' }, { write: (line: string) => lines.push(line) }) }))

test('to open the page hands nothing out, and nobody keeps it, frames it or hears where it was', async () => {
  const { keyId } = await newCredential(at.client)
  for (const path of ['/claim', `/claim/rot_${'a'.repeat(16)}`]) {
    for (const method of ['GET', 'HEAD']) {
      const answer = await fetch(at.client.url + path, { method })
      const { headers } = answer
      expect([answer.status, headers.get('content-type')]).toEqual([200, 'text/html; charset=utf-8'])
      expect(headers.get('cache-control')).toBe('no-store')
      expect(headers.get('referrer-policy')).toBe('no-referrer')
      expect(headers.get('x-frame-options')).toBe('DENY')
      expect(headers.get('content-security-policy')).toMatch(
        /^default-src 'none'; script-src 'sha256-[^ ]+='; style-src 'sha256-[^ ]+='; connect-src 'self'; /,
      )
      expect(await answer.text()).not.toMatch(/https?:\/\/|src=|<link/)
    }
  }
  expect((await fetch(`${at.client.url}/claim/${'a'.repeat(43)}`)).status).toBe(400)
  expect(await claimOfKey(at.house.db, keyId)).toMatchObject({ state: 'open' })
})

/** A credential of a kind whose new key is not fetched yet. */
async function monitored(kind: 'bearer' | 'hmac-sha256' | 'ed25519' = 'bearer') {
  const input = {
    name: 'feed',
    environment: 'prod',
    scopes: [],
    kind,
    ...(kind === 'ed25519' ? { publicKey: newPublicKey() } : {}),
  }
  const { body } = await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, input)
  const token = kind === 'ed25519' ? '' : (await redeem(at.client, body.claim)).body.token
  const { rotationId } = (await trigger(at.client, body.credentialId)).body
  await reached(at.client, rotationId, 'monitoring')
  return { ...body, token, rotationId }
}

test('a key is asked for only where it is sent with requests, and opens the way to the next one', async () => {
  const asks = async (path: string) => (await (await fetch(`${at.client.url}/claim${path}`)).text()).includes('id="oldKey"')
  const { rotationId, token } = await monitored()
  expect([await asks(''), await asks(`/${rotationId}`)]).toEqual([false, true])
  for (const kind of ['hmac-sha256', 'ed25519'] as const)
    expect([kind, await asks(`/${(await monitored(kind)).rotationId}`)]).toEqual([kind, false])

  const { credentialId } = await claimedCredential(at.client)
  const closed = await at.house.rotate(credentialId, { successorByOldKey: false })
  await reached(at.client, closed.rotationId, 'monitoring')
  expect(await asks(`/${closed.rotationId}`)).toBe(false)

  const leaked = await monitored()
  await at.client.post('/v1/leaks', { token: leaked.token, source: 'test', url: 'https://example.com/' })
  expect(await asks(`/${leaked.rotationId}`)).toBe(false)

  await at.client.post(`/v1/rotations/${rotationId}/escalate`, { reason: 'exposed' })
  await reached(at.client, rotationId, 'completed')
  expect([await asks(`/${rotationId}`), (await at.client.post('/v1/successor', undefined, { token })).status]).toEqual([
    false,
    403,
  ])

  const done = await monitored()
  expect((await at.client.post('/v1/successor', undefined, { token: done.token })).status).toBe(200)
  expect(await asks(`/${done.rotationId}`)).toBe(false)
})

describe.skipIf(browserAt === undefined)('the claim page in a browser (skipped where there is no chromium)', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await openBrowser()
  })
  afterAll(() => browser?.close())

  /** A page, with what went wrong on it and where it went. */
  async function open(path: string): Promise<{ page: Page; errors: string[]; asked: string[] }> {
    const context = await browser.newContext({ permissions: ['clipboard-read', 'clipboard-write'] })
    onTestFinished(() => context.close())
    const page = await context.newPage()
    const [errors, asked]: [string[], string[]] = [[], []]
    page.on('pageerror', ({ message }) => errors.push(message))
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()))
    page.on('request', (request) => asked.push(`${request.method()} ${request.url()}`))
    await page.goto(at.client.url + path)
    return { page, errors, asked }
  }
  const said = (page: Page, text: RegExp) =>
    expect.poll(() => page.locator('#said').textContent(), { timeout: 60_000 }).toMatch(text)

  test('G10: shows the key once the button is pressed, copies it, and asks nobody else for anything', async () => {
    const { claim, keyId } = await newCredential(at.client)
    const { page, errors, asked } = await open(`/claim#${claim}`)
    await page.getByRole('button', { name: 'Show the key' }).waitFor()
    expect(await claimOfKey(at.house.db, keyId)).toMatchObject({ state: 'open' })
    await page.getByRole('button', { name: 'Show the key' }).click()
    await said(page, /shown once/)
    const token = (await page.locator('#token').textContent()) ?? ''
    expect(at.house.verdicts(token)).toEqual([true])
    await page.getByRole('button', { name: 'Copy' }).click()
    await said(page, /Copied/)
    expect(await page.evaluate('navigator.clipboard.readText()')).toBe(token)
    expect(page.url()).toBe(`${at.client.url}/claim`)
    expect(asked).toEqual([`GET ${at.client.url}/claim`, `POST ${at.client.url}/v1/claims/${claim}`])
    expect(errors).toEqual([])
    await page.reload()
    expect(await page.content()).not.toContain(token)
    expect(lines.join('')).not.toContain(claim)
    expect(lines.join('')).not.toContain(token)

    const late = (await open(`/claim#${claim}`)).page
    await late.getByRole('button', { name: 'Show the key' }).click()
    await said(late, /has been used\. .*tell the provider at once/)
  })

  test('G10: when the answer is lost, the button may be pressed again', async () => {
    const { claim } = await newCredential(at.client)
    const { page } = await open(`/claim#${claim}`)
    let lost = 0
    await page.route('**/v1/claims/*', async (route) => {
      if (lost++ > 0) return route.continue()
      await route.fetch()
      return route.abort()
    })
    await page.getByRole('button', { name: 'Show the key' }).click()
    await said(page, /There was no answer/)
    await page.getByRole('button', { name: 'Show the key' }).click()
    await said(page, /shown once/)
    expect(at.house.verdicts((await page.locator('#token').textContent()) ?? '')).toEqual([true])
  })

  test('asks for the old key where the link holds no claim', async () => {
    const { credentialId, token } = await claimedCredential(at.client)
    const { rotationId } = (await trigger(at.client, credentialId)).body
    await reached(at.client, rotationId, 'monitoring')
    const { page, errors } = await open(`/claim/${rotationId}`)
    await page.getByRole('button', { name: 'Show the key' }).click()
    await said(page, /Enter the key that is being replaced/)
    await page.getByLabel('The key that is being replaced').fill(token)
    await page.keyboard.press('Enter')
    await said(page, /shown once/)
    expect(await page.locator('#about').textContent()).toMatch(/The old key may stop working after/)
    expect(at.house.verdicts((await page.locator('#token').textContent()) ?? '')).toEqual([true])
    expect(await page.getByLabel('The key that is being replaced').inputValue()).toBe('')
    expect(errors).toEqual([])
  })

  test('G5: sends no private key, in whatever form it is entered, and asks for none', async () => {
    const { rotationId } = await monitored()
    const { page, asked } = await open(`/claim/${rotationId}`)
    const { privateKey } = generateKeyPairSync('ed25519')
    const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
    const forms = [pem, pem.replace(/-----.*?-----|\s/g, ''), JSON.stringify(privateKey.export({ format: 'jwk' }))]
    for (const form of forms) {
      await page.getByLabel('The key that is being replaced').fill(form)
      await page.getByRole('button', { name: 'Show the key' }).click()
      await said(page, /has not been sent from here/)
      expect(await page.getByLabel('The key that is being replaced').inputValue()).toBe('')
    }
    expect(asked).toEqual([`GET ${at.client.url}/claim/${rotationId}`])

    const signing = (await open(`/claim/${(await monitored('hmac-sha256')).rotationId}`)).page
    await signing.getByText('Do not enter it anywhere').waitFor()
    expect(await signing.locator('input:visible, button:visible').count()).toBe(0)
  })

  test('takes the public half of a key that the client makes', async () => {
    const kind = { name: 'feed', environment: 'prod', scopes: ['trade:orders'], kind: 'ed25519' }
    const { body } = await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, kind)
    const { page } = await open(`/claim#${body.claim}`)
    await page.getByRole('button', { name: 'Show the key' }).click()
    await page.getByLabel(/public half/).fill('nonsense')
    await page.getByRole('button', { name: 'Enrol it' }).click()
    await said(page, /must be 32 bytes/)
    await page.getByLabel(/public half/).fill(newPublicKey())
    await page.getByRole('button', { name: 'Enrol it' }).click()
    await said(page, /is enrolled/)
    expect(at.house.gateways.map(({ cache }) => cache.get(body.keyId)?.state)).toEqual(['active'])
  })

  test('shows the key as it is where it is encrypted to the key that the client has registered', async () => {
    const recipient = newRecipient()
    const input = { name: 'feed', environment: 'prod', scopes: [], delivery: { method: 'jwe', recipient: recipient.jwk } }
    const { body } = await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, input)
    const { page } = await open(`/claim#${body.claim}`)
    await page.getByRole('button', { name: 'Show the key' }).click()
    await said(page, /decrypt it with the private half/)
    const jwe = (await page.locator('#token').textContent()) ?? ''
    expect(at.house.verdicts(await decrypt(jwe, recipient))).toEqual([true])
  })

  test('runs no script but its own', async () => {
    const { claim } = await newCredential(at.client)
    const { page } = await open(`/claim#${claim}`)
    await expect(page.addScriptTag({ content: 'document.title = "other"' })).rejects.toThrow(/Content Security Policy|Failed/)
    expect(await page.title()).toBe('Fetch your new key')
  })

  test('says so when the link is not complete', async () => {
    const { claim } = await newCredential(at.client)
    const { page } = await open(`/claim#${claim.slice(0, 40)}`)
    await said(page, /not complete/)
    expect((await redeem(at.client, claim)).status).toBe(200)
  })
})
