/** Sends one message to one contact, on its channel. */

import type { DeliveryConfig } from '../../infra/config.ts'
import { type Contact, contactText } from '../../registry/contacts.ts'
import type { Sealer } from '../../registry/sealing.ts'
import { emailOf } from '../messages/email.ts'
import type { Facts } from '../messages/facts.ts'
import { letterOf } from '../messages/letter.ts'
import { loadTexts } from '../messages/own-texts.ts'
import { slackMessageOf } from '../messages/slack.ts'
import { webhookBody } from '../messages/webhook.ts'
import { createMailer } from './mail.ts'
import { createOutbound, type OutboundOptions } from './outbound.ts'
import { Undelivered } from './undelivered.ts'
import { sendToSlack, sendWebhook, webhookSecrets } from './web.ts'

export interface Courier {
  /**
   * @param id the same over all attempts at one message, so that the receiver can tell a repetition
   * @throws Undelivered
   */
  send(contact: Contact, facts: Facts, options: { id: string; signal: AbortSignal }): Promise<void>
  close(): Promise<void>
}

export interface CourierOptions {
  readonly sealer: Sealer
  /** Where clients reach the API. */
  readonly publicUrl: string
  readonly delivery: DeliveryConfig
  /** Instead of the system's, for tests. */
  readonly lookup?: OutboundOptions['lookup']
}

/** @throws ConfigError when the texts can not be used */
export function createCourier({ sealer, publicUrl, delivery, lookup }: CourierOptions): Courier {
  const texts = loadTexts(delivery.messagesFile)
  const outbound = createOutbound({ allow: delivery.webhookAllow, ...(lookup === undefined ? {} : { lookup }) })
  const letter = (facts: Facts) => letterOf(facts, { texts, publicUrl, signInUrl: delivery.signInUrl })
  const mailer = delivery.smtp === undefined ? undefined : createMailer(delivery.smtp)
  return {
    async send(contact, facts, { id, signal }) {
      if (contact.channel === 'email') {
        const email = emailOf(letter(facts))
        if (mailer !== undefined) return mailer.send(contact.address, email, id, signal)
        throw new Undelivered(`${contactText(contact)}: no mail server is set up (KEYTURN_SMTP_URL)`, { refused: true })
      }
      if (contact.channel === 'webhook') {
        const secrets = webhookSecrets(sealer, facts.client.clientId)
        return sendWebhook(outbound, { url: contact.url, body: webhookBody(facts, publicUrl), signal, id, secrets })
      }
      const body = slackMessageOf(letter(facts))
      return sendToSlack(outbound, { url: contact.url, body, signal })
    },
    async close() {
      mailer?.close()
      await outbound.close()
    },
  }
}
