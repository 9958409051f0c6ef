/** Messages through the whole house: on which channel a client is told, when another takes its place, and what is never in a mail. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { troublesOf } from '../../registry/contact-troubles.ts'
import type { Contact } from '../../registry/contacts.ts'
import { getCredential } from '../../registry/credentials.ts'
import { hook, webhook } from '../support/hook.ts'
import { eventually, type House, type StartedRotation } from '../support/house.ts'
import { decoded, type MailServerOptions, mailServer } from '../support/mail-server.ts'
import { openHouse } from '../support/open-house.ts'

const PATIENCE_MS = 90_000
const HOUR = 3_600_000
const DAY = 24 * HOUR
vi.setConfig({ testTimeout: 4 * 60_000, hookTimeout: 90_000 })

const FORTNIGHT = { overlapMs: 14 * DAY, quietPeriodMs: DAY, regretWindowMs: 0 } as const

let house: House
let smtp: Awaited<ReturnType<typeof mailServer>>
let refusals: (before: number, address: string) => number | undefined = () => undefined
beforeAll(async () => {
  const options: MailServerOptions = { recipient: (before, address) => refusals(before, address) }
  smtp = await mailServer({ ...options, keep: true })
  house = await openHouse({ time: 'skipped', gateways: 1, delivery: { smtp: { url: smtp.url, from: 'keys@api.example' } } })
})
afterAll(async () => {
  await house.close()
  await smtp.close()
})

let mailboxes = 0
const mailbox = () => `box${++mailboxes}@acme.example`
const mailsTo = (address: string) => smtp.mails.filter(({ to }) => to.includes(address)).map(({ source }) => decoded(source))
const email = (address: string): Contact => ({ channel: 'email', address })

async function rotate(contacts: readonly Contact[], client: Parameters<House['credential']>[3] = {}, policy = {}) {
  const credential = await house.credential(['read:prices'], 'prod', contacts, client)
  return { ...credential, ...(await house.rotate(credential.credentialId, { ...FORTNIGHT, ...policy })) }
}
const end = async (rotation: StartedRotation) => {
  await house.order(rotation, 'rollBack')
  await rotation.handle.result()
}
const passing = (holds: () => boolean | Promise<boolean>, what: string, ms = 60_000) =>
  eventually(
    async () => {
      if (await holds()) return true
      await house.pass(ms)
      return holds()
    },
    what,
    PATIENCE_MS,
  )

describe('by e-mail', () => {
  test('G5: a mail has no claim and no key in it, but a link; and all that a person has to know', async () => {
    const box = mailbox()
    const rotation = await rotate([email(box)], { client: { language: 'de', timeZone: 'Europe/Berlin' } })
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const [mail = expect.fail()] = mailsTo(box)
    const code = await house.claimCodeOf(rotation.rotationId)
    for (const secret of [code, rotation.token]) expect(mail).not.toContain(secret)
    expect(mail).toContain(`${house.config.publicUrl}/claim/${rotation.rotationId}`)
    const { deadline } = await house.rotation(rotation.rotationId)
    const shown = new Intl.DateTimeFormat('de-DE', { timeZone: 'Europe/Berlin', hour: '2-digit', minute: '2-digit' }).format(
      deadline,
    )
    expect(mail).toContain(`um ${shown} MEZ`.replace('MEZ', /MEZ|MESZ/.exec(mail)?.[0] ?? 'MEZ'))
    expect(mail).toContain('Was zu tun ist')
    await end(rotation)
    expect(mailsTo(box)[1]).toContain('ist zurückgenommen')
  })

  test('the policy may say that the claim is in it', async () => {
    const box = mailbox()
    const rotation = await rotate([email(box)], {}, { claimInMessages: true })
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    expect(mailsTo(box)[0]).toContain(`${house.config.publicUrl}/claim#${await house.claimCodeOf(rotation.rotationId)}`)
    await end(rotation)
  })

  test('a server that has new senders wait is asked again, and the rotation is not held for that', async () => {
    const box = mailbox()
    let asked = 0
    refusals = (_, address) => (address === box && asked++ < 3 ? 451 : undefined)
    const rotation = await rotate([email(box)])
    await passing(() => mailsTo(box).length > 0, 'the mail', 5_000)
    const { timeline } = await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    expect([asked, timeline.map(({ stage }) => stage)]).toEqual([4, ['requested', 'introducing', 'notifying', 'monitoring']])
    await end(rotation)
  })
})

describe('a channel that fails', () => {
  test('for good: the next one is tried at once, and what the first one has refused is not sent to it again', async () => {
    const box = mailbox()
    const [refusing, slack] = [await hook(() => 404), await hook()]
    const rotation = await rotate([webhook(refusing), { channel: 'slack', url: slack.url }, email(box)])
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    expect([refusing.bodies.length, slack.bodies.length, mailsTo(box).length]).toEqual([1, 1, 0])
    const [message = expect.fail()] = slack.bodies
    expect(JSON.stringify(message)).not.toContain(await house.claimCodeOf(rotation.rotationId))
    expect(message.text).toContain('A new key for')
    expect(message.blocks?.length).toBeGreaterThan(3)
    const told = await listAudit(house.db, { rotationId: rotation.rotationId, limit: 100 })
    expect(told.filter(({ action }) => action === 'client.told').map(({ detail }) => detail['to'])).toEqual([
      [`slack ${new URL(slack.url).host}`],
    ])
    await end(rotation)
  })

  test('for a while: the next one tells the client soon, and the first one gets the message when it is back', async () => {
    const box = mailbox()
    let down = true
    const flaky = await hook(() => (down ? 503 : 204))
    const rotation = await rotate([webhook(flaky), email(box)])
    await passing(() => mailsTo(box).length === 1, 'the mail', 10_000)
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const before = flaky.bodies.length
    expect(before).toBeGreaterThan(2)
    down = false
    await passing(() => flaky.bodies.length > before, 'the webhook that is back')
    expect(flaky.bodies.every(({ type }) => type === 'keyturn.rotation.introduced')).toBe(true)
    await end(rotation)
  })

  test('with three messages that it refuses: it is no longer used', async () => {
    const box = mailbox()
    refusals = (_, address) => (address === box ? 550 : undefined)
    const good = await hook()
    const rotation = await rotate([email(box), webhook(good)])
    const { clientId = expect.fail() } = (await getCredential(house.db, rotation.credentialId)) ?? {}
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    await end(rotation)
    expect([...(await troublesOf(house.db, clientId)).values()]).toMatchObject([{ failures: 2 }])
    const again = await house.rotate(rotation.credentialId, FORTNIGHT)
    await house.reached(again.rotationId, 'monitoring', PATIENCE_MS)
    const [trouble] = await eventually(
      async () => {
        const all = [...(await troublesOf(house.db, clientId)).values()]
        return all[0]?.disabledAt === undefined ? undefined : all
      },
      'the mailbox is no longer used',
      PATIENCE_MS,
    )
    expect(trouble).toMatchObject({ failures: 3, why: 'the mail server answered 550 to RCPT TO for acme.example' })
    expect(good.bodies).toHaveLength(3)
    await end(again)
  })
})

describe('at night', () => {
  /** Quiet hours that begin now and end in eight hours. */
  const quietNow = () => {
    const time = (ms: number) => new Date(house.now() + ms).toISOString().slice(11, 16)
    return { from: time(-60_000), to: time(8 * HOUR) }
  }

  test('an emergency does not wait, and goes to every contact', async () => {
    const box = mailbox()
    const client = await hook()
    const credential = await house.credential(['read:prices'], 'prod', [webhook(client), email(box)], {
      client: { quietHours: quietNow() },
    })
    const rotation = await house.rotate(credential.credentialId, FORTNIGHT, 'emergency')
    await rotation.handle.result()
    expect(client.bodies.map(({ type }) => type)).toEqual(['keyturn.rotation.emergency'])
    expect(mailsTo(box)[0]).toContain('Urgent: the key for')
  })
})
