/** The API's bodies as the tests read them, and the steps that most of them begin with. */
import {
  type CredentialId,
  type KeyId,
  type ProblemDocument,
  type Receipt,
  type RotationId,
  type RotationStage,
  rotationWorkflowId,
  type TimelineEntry,
} from '@keyturn/contract'
import { WorkflowNotFoundError } from '@temporalio/client'
import { afterAll, beforeAll, expect } from 'vitest'
import { type ApiClient, type RequestOptions, type ServedApi, type ServeOptions, serveApi } from '../support/api.ts'
import { eventually, type House, type HouseOptions } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'

export interface CreatedBody {
  readonly credentialId: CredentialId
  readonly keyId: KeyId
  readonly version: number
  readonly claim: string
  readonly claimUrl: string
  readonly propagated: boolean
}
export interface HandedOutBody {
  readonly token: string
  readonly keyId: KeyId
  readonly sunsetAt?: string
}
export interface CredentialBody {
  readonly rotationId?: RotationId
  readonly keys: readonly { readonly version: number; readonly state: string; readonly standing: string }[]
  readonly stragglers: readonly { readonly address: string; readonly count: number }[]
}
export interface TriggeredBody {
  readonly rotationId: RotationId
  readonly trigger: string
  readonly joined: boolean
}
export interface RotationBody {
  readonly rotationId: RotationId
  readonly credentialId: CredentialId
  readonly clientId: string
  readonly trigger: string
  readonly stage: RotationStage
  readonly newKeyId: KeyId
  readonly timeline: readonly TimelineEntry[]
  readonly evidence: object
  readonly receipts: readonly Receipt[]
}

/** A rotation that ends as soon as its new key is used, and not by itself. */
export const QUICK = { trigger: 'manual', reason: 'yearly', overlap: '10m', quietPeriod: '0s', regretWindow: '0s' }

/** A house and its API for all tests of a file. */
export function apiHouse(options: Partial<HouseOptions>, serve: (house: House) => Promise<ServeOptions> = async () => ({})) {
  let opened: { house: House; api: ServedApi } | undefined
  const ready = () => {
    if (opened === undefined) throw new Error('the house is not open yet')
    return opened
  }
  beforeAll(async () => {
    const house = await openHouse({ time: 'real', gateways: 1, ...options })
    opened = { house, api: await serveApi(house, await serve(house)) }
  })
  afterAll(async () => {
    await opened?.api.stop()
    await opened?.house.close()
  })
  return {
    get house(): House {
      return ready().house
    },
    get client(): ApiClient {
      return ready().api.client
    },
  }
}

export async function newClient(api: ApiClient, name = 'Acme'): Promise<string> {
  return (await api.post<{ clientId: string }>('/v1/clients', { name })).body.clientId
}

/** A credential over HTTP, its claim not redeemed yet. */
export async function newCredential(api: ApiClient, clientId?: string, name = 'feed'): Promise<CreatedBody> {
  const input = { name, environment: 'prod', scopes: ['read:prices'] }
  return (await api.post<CreatedBody>(`/v1/clients/${clientId ?? (await newClient(api))}/credentials`, input)).body
}

/** What a client does with a claim: no operator token, no body. */
export const redeem = (api: ApiClient, claim: string) =>
  api.post<HandedOutBody>(`/v1/claims/${claim}`, undefined, { token: 'none' })

export async function claimedCredential(api: ApiClient): Promise<CreatedBody & { readonly token: string }> {
  const created = await newCredential(api)
  return { ...created, token: (await redeem(api, created.claim)).body.token }
}

/** Asks for a rotation; again, as whoever is told to try again in a moment. */
export const trigger = (api: ApiClient, credentialId: string, body: object = {}) =>
  eventually(
    async () => {
      const answer = await api.post<TriggeredBody>(`/v1/credentials/${credentialId}/rotations`, { ...QUICK, ...body })
      return answer.status !== 503 && answer
    },
    `a rotation of ${credentialId}`,
    60_000,
  )

/** Waits until a rotation has come to a stage; it may have gone on from there. */
export const reached = (api: ApiClient, rotationId: string, stage: RotationStage): Promise<RotationBody> =>
  eventually(
    async () => {
      const { status, body } = await api.get<RotationBody>(`/v1/rotations/${rotationId}`)
      return status === 200 && body.timeline.some((entry) => entry.stage === stage) && body
    },
    `stage ${stage} of ${rotationId}`,
    60_000,
  )

/** Everything in the registry but what the collector keeps up to date by itself: how many rows each table has, and a hash of them. */
export async function contentsOf({ db }: House): Promise<Record<string, string>> {
  const tables = await db.query<{ name: string }>(
    `select table_name as name from information_schema.tables
     where table_schema = 'public' and table_type = 'BASE TABLE' and table_name not like 'usage%' order by 1`,
  )
  const contents: Record<string, string> = {}
  for (const { name } of tables) {
    const [row] = await db.query<{ rows: number; hash: string | null }>(
      `select count(*) as rows, md5(string_agg(t::text, '|' order by t::text)) as hash from "${name}" t`,
    )
    contents[name] = `${row?.rows} rows, ${row?.hash ?? 'none'}`
  }
  return contents
}

/** Sends what is to be refused, and sees to it that nothing has come of it: not in the registry, and no rotation of the credential. */
export async function refusedWithoutTrace(
  { house, client }: { readonly house: House; readonly client: ApiClient },
  credentialId: CredentialId,
  [method, path, options]: readonly [method: string, path: string, options?: RequestOptions],
): Promise<ProblemDocument> {
  const before = await contentsOf(house)
  const problem = await client.refusal(method, path, options)
  expect(await contentsOf(house)).toEqual(before)
  const workflow = house.client.workflow.getHandle(rotationWorkflowId(credentialId))
  if (path.includes('rotations')) await expect(workflow.describe()).rejects.toThrow(WorkflowNotFoundError)
  return problem
}
