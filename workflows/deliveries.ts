/** What a workflow leaves to others of the messages that it sends, and what it hears of them. */
import { ParentClosePolicy, setHandler, startChild } from '@temporalio/workflow'
import type { Delivery } from '../activities/notification.ts'
import { type DeliveryNews, type deliverMessage, deliverySignal } from './deliver-message.ts'

export class Deliveries {
  private readonly news = new Map<string, DeliveryNews>()

  listen(): void {
    setHandler(deliverySignal, (news) => {
      this.news.set(news.messageId, news)
    })
  }

  /** What is known of a message; nothing as long as it may still come soon. */
  of({ messageId }: Pick<Delivery, 'messageId'>): DeliveryNews | undefined {
    return this.news.get(messageId)
  }
}

/** Has a message gone on with, whatever becomes of who asks for it. */
export const goOnWith = (delivery: Delivery): Promise<unknown> =>
  startChild<typeof deliverMessage>('deliverMessage', {
    workflowId: `message/${delivery.messageId}`,
    parentClosePolicy: ParentClosePolicy.ABANDON,
    args: [delivery],
  })
