/** A client's receiver of webhooks, which keeps what it gets. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { onTestFinished } from 'vitest'
import type { Notification } from '../../activities/messages/webhook.ts'
import type { Contact } from '../../registry/contacts.ts'

/** What comes: a notification, or a message as Slack has it. */
export type HookBody = Partial<Notification> & { readonly text?: string; readonly blocks?: readonly object[] }

export interface Hook {
  readonly url: string
  readonly host: string
  readonly bodies: HookBody[]
  /** Of the messages, in the order of the bodies. */
  readonly ids: string[]
  /** How many of a kind came, of notifications of rotations. */
  count(kind: string): number
}

/** @param status what it answers, by how many came before */
export async function hook(status: (before: number) => number = () => 204): Promise<Hook> {
  const bodies: HookBody[] = []
  const ids: string[] = []
  const server = createServer(async (request, response) => {
    bodies.push(JSON.parse(await text(request)) as HookBody)
    ids.push(String(request.headers['webhook-id']))
    response.writeHead(status(bodies.length - 1)).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    url: `http://${host}/hook`,
    host,
    bodies,
    ids,
    count: (kind) => bodies.filter(({ type }) => type === `keyturn.rotation.${kind}`).length,
  }
}

export const webhook = ({ url }: Hook): Contact => ({ channel: 'webhook', url })
