/** Both ends of the fallback, and somebody between them who alters what passes. */
import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { randomBase62 } from '@keyturn/contract'
import type { GatewayOptions } from '@keyturn/gateway'

export const { privateKey: signingKey, publicKey } = generateKeyPairSync('ed25519')
export const gatewayToken = randomBase62(32)
/** For the API's configuration. */
export const fallback = { gatewayToken, signingKey }
/** For a gateway's. */
export const fallbackAt = (url: string): NonNullable<GatewayOptions['fallback']> => ({ url, token: gatewayToken, publicKey })

export interface Meddler {
  readonly url: string
  /** What becomes of a question on its way, and of the answer. */
  question: (query: URLSearchParams) => void
  answer: (answer: string) => Promise<string> | string
  close(): void
}

/** Between gateways and the API. It passes everything on until it is told otherwise. */
export async function startMeddler(api: string): Promise<Meddler> {
  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? '', api)
    meddler.question(url.searchParams)
    const passed = await fetch(url, { headers: { authorization: request.headers.authorization ?? '' } })
    const body = (await passed.json()) as { answer?: string }
    if (body.answer !== undefined) body.answer = await meddler.answer(body.answer)
    response.writeHead(passed.status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const meddler: Meddler = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    question: () => undefined,
    answer: (answer) => answer,
    close: () => server.close(),
  }
  return meddler
}
