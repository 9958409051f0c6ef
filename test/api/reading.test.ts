/** Lists and their pages: rotations, gateways, the audit log. */
import type { RotationId, RotationStage } from '@keyturn/contract'
import { beforeAll, describe, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { apiHouse, newClient, newCredential, type RotationBody, reached, redeem, trigger } from './support.ts'

const at = apiHouse({})

interface RotationPage {
  readonly rotations: readonly RotationBody[]
  readonly next?: string
}
interface AuditPage {
  readonly entries: readonly {
    readonly seq: number
    readonly actor: string
    readonly action: string
    readonly subject: string
    readonly detail: Readonly<Record<string, unknown>>
    readonly rotationId?: RotationId
    readonly prevHash: string
    readonly hash: string
  }[]
  readonly next?: number
}

/** Two clients; five rotations of the first's credentials and one of the second's. Two of the five are rolled back. */
const made = { first: '', second: '', credentials: [] as string[], rotations: [] as RotationId[], other: '' as RotationId }
beforeAll(async () => {
  made.first = await newClient(at.client, 'First')
  made.second = await newClient(at.client, 'Second')
  for (let i = 1; i <= 5; i++) {
    const { credentialId, claim } = await newCredential(at.client, made.first, `feed-${i}`)
    await redeem(at.client, claim)
    made.credentials.push(credentialId)
    made.rotations.push((await trigger(at.client, credentialId)).body.rotationId)
  }
  made.other = (await trigger(at.client, (await newCredential(at.client, made.second)).credentialId)).body.rotationId
  await Promise.all([...made.rotations, made.other].map((rotationId) => reached(at.client, rotationId, 'monitoring')))
  for (const rotationId of made.rotations.slice(0, 2)) {
    await at.client.post(`/v1/rotations/${rotationId}/roll-back`, { reason: 'for the list' })
    await reached(at.client, rotationId, 'rolled-back')
  }
}, 180_000)

const list = async (query: string): Promise<RotationPage> => (await at.client.get<RotationPage>(`/v1/rotations${query}`)).body
const idsOf = ({ rotations }: RotationPage): string[] => rotations.map(({ rotationId }) => rotationId)
const latestFirst = (rotationIds: readonly string[]): string[] => [...rotationIds].reverse()

describe('GET /v1/rotations', () => {
  test('lists all, latest first', async () => {
    const page = await list('')
    expect(idsOf(page)).toEqual([made.other, ...latestFirst(made.rotations)])
    expect(page).not.toHaveProperty('next')
    expect(page.rotations[0]).toMatchObject({ clientId: made.second, trigger: 'manual', stage: 'monitoring' })
  })

  test.each<[string, () => string, () => string[]]>([
    ['client', () => `?client=${made.first}`, () => latestFirst(made.rotations)],
    ['a client without any', () => '?client=cli_0000000000000000', () => []],
    ['credential', () => `?credential=${made.credentials[3]}`, () => made.rotations.slice(3, 4)],
    ['stage', () => '?stage=rolled-back', () => latestFirst(made.rotations.slice(0, 2))],
    ['stage and client', () => `?stage=monitoring&client=${made.first}`, () => latestFirst(made.rotations.slice(2))],
    ['a stage that none is at', () => '?stage=deactivating', () => []],
  ])('filters by %s', async (_, query, expected) => {
    expect(idsOf(await list(query()))).toEqual(expected())
  })

  test.each([1, 2, 5, 6])('by pages of %i gives each one once', async (limit) => {
    const seen: string[] = []
    let next: string | undefined
    for (let pages = 0; pages <= 6; pages++) {
      const page = await list(`?client=${made.first}&limit=${limit}${next === undefined ? '' : `&before=${next}`}`)
      expect(page.rotations.length).toBeLessThanOrEqual(limit)
      seen.push(...idsOf(page))
      next = page.next
      if (next === undefined) break
    }
    expect(next).toBeUndefined()
    expect(seen).toEqual(latestFirst(made.rotations))
  })
})

describe('gateways', () => {
  const ids = async (): Promise<string[]> => {
    const { body } = await at.client.get<{ gateways: { gatewayId: string }[] }>('/v1/gateways')
    return body.gateways.map(({ gatewayId }) => gatewayId).sort()
  }

  test('are listed with what they have said last', async () => {
    const { body } = await at.client.get('/v1/gateways')
    const gateway = {
      gatewayId: 'gw-1',
      region: 'test',
      freshness: 'fresh',
      live: true,
      keys: expect.any(Number),
      at: expect.any(String),
    }
    expect(body).toEqual({ gateways: [gateway] })
  })

  test('G3: one that is silent holds a rotation and is named, until it is declared gone; that is on record', async () => {
    const { credentialId } = await newCredential(at.client, made.first, 'held')
    await at.house.announceSilentGateway('gw-silent')
    expect(await ids()).toEqual(['gw-1', 'gw-silent'])
    const { rotationId } = (await trigger(at.client, credentialId, { receiptWait: '0s' })).body
    const held = await reached(at.client, rotationId, 'held')
    expect(held).toMatchObject({ stage: 'held', heldFor: 'receipt', unconfirmed: ['gw-silent'] })
    expect(held.receipts).toMatchObject([{ unconfirmed: ['gw-silent'], gateways: [{ gatewayId: 'gw-1' }] }])

    const gone = await at.client.post('/v1/gateways/gw-silent/gone', { reason: 'its machine was sold' })
    expect([gone.status, gone.body]).toEqual([200, { gatewayId: 'gw-silent', gone: true }])
    expect(await ids()).toEqual(['gw-1'])
    expect((await reached(at.client, rotationId, 'monitoring')).receipts[0]).toMatchObject({ unconfirmed: [] })
    const { entries } = (await at.client.get<AuditPage>('/v1/audit?subject=gw-silent')).body
    expect(entries).toMatchObject([{ actor: 'operator', action: 'gateway-gone', detail: { reason: 'its machine was sold' } }])
    expect(await at.client.refusal('POST', '/v1/gateways/gw-silent/gone', { body: { reason: 'again' } })).toMatchObject({
      code: 'unknown-gateway',
    })
  })
})

describe('GET /v1/credentials', () => {
  const ids = async (query: string): Promise<{ ids: string[]; next: string | undefined }> => {
    const { body } = await at.client.get<{ credentials: { credentialId: string }[]; next?: string }>(`/v1/credentials${query}`)
    return { ids: body.credentials.map(({ credentialId }) => credentialId), next: body.next }
  }

  test('finds those of a client by its id or its name, and says whose they are', async () => {
    const { credentialId } = await newCredential(at.client, await newClient(at.client, 'Acme, Inc.'), 'price feed')
    const { body } = await at.client.get(`/v1/credentials?clientName=${encodeURIComponent('Acme, Inc.')}`)
    expect(body).toEqual({
      credentials: [
        expect.objectContaining({
          credentialId,
          name: 'price feed',
          environment: 'prod',
          clientName: 'Acme, Inc.',
          kind: 'bearer',
        }),
      ],
    })
    const of = (await ids(`?client=${made.first}`)).ids
    expect(of).toEqual(expect.arrayContaining(made.credentials))
    expect(of).not.toContain(credentialId)
    expect((await ids('?clientName=Nobody')).ids).toEqual([])
  })

  test('by pages gives each one once', async () => {
    const all = (await ids('?limit=1000')).ids
    const seen: string[] = []
    for (let after: string | undefined = ''; after !== undefined; ) {
      const page = await ids(`?limit=3${after === '' ? '' : `&after=${after}`}`)
      expect(page.ids.length).toBeLessThanOrEqual(3)
      seen.push(...page.ids)
      after = page.next
    }
    expect(seen).toEqual(all)
  })
})

describe('G7: the audit log', () => {
  const page = async (query: string): Promise<AuditPage> => (await at.client.get<AuditPage>(`/v1/audit${query}`)).body

  test('G7: comes oldest first and without gaps, each entry chained to the one before it', async () => {
    let before = '0'.repeat(64)
    let seq = 0
    for (let after: number | undefined = 0; after !== undefined; ) {
      const { entries, next } = await page(`?after=${after}&limit=7`)
      for (const entry of entries) {
        expect([entry.seq, entry.prevHash]).toEqual([seq + 1, before])
        expect(entry.hash).toMatch(/^[0-9a-f]{64}$/)
        seq = entry.seq
        before = entry.hash
      }
      after = next
    }
    expect(await verifyAudit(at.house.db)).toEqual({ ok: true, entries: seq })
  })

  test('G7: of a rotation tells who did what, why, and to which key', async () => {
    const [rotationId = ''] = made.rotations
    const { entries } = await page(`?rotation=${rotationId}`)
    const stages: RotationStage[] = ['requested', 'introducing', 'notifying', 'monitoring', 'rolling-back', 'rolled-back']
    expect(entries.filter(({ subject }) => subject === rotationId).map(({ action }) => action)).toEqual(
      stages.map((stage) => `rotation.${stage}`),
    )
    expect(entries.filter(({ action }) => action.startsWith('key.')).map(({ action }) => action)).toEqual([
      'key.introduced',
      'key.deprecated',
      'key.reinstated',
      'key.deactivated',
    ])
    expect(new Set(entries.map(({ rotationId: of }) => of))).toEqual(new Set([rotationId]))
    expect(entries.find(({ action }) => action === 'rotation.rolling-back')).toMatchObject({
      actor: 'operator',
      detail: { reason: 'for the list' },
    })
  })

  test('by subject', async () => {
    const { entries } = await page(`?subject=${made.second}`)
    expect(entries).toMatchObject([{ action: 'client.created', actor: 'operator', detail: { name: 'Second' } }])
    expect((await page('?subject=nobody')).entries).toEqual([])
  })
})
