/** How new keys are to reach their client, from a file: docs/delivery.md has what is in it. */
import { readFile } from 'node:fs/promises'
import { UsageFailure } from './failure.ts'

/** Sent as it is: the API knows what belongs there. A private key must not leave this machine. */
export async function readDeliveryFile(file: string): Promise<object> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new UsageFailure(`${file} can not be read (${error.code ?? 'error'})`, 'Give the path of a JSON file.', {
      cause: error,
    })
  })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // What the parser says may quote it.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new UsageFailure(`${file} holds no JSON object`, 'It looks like {"method": "vault", …}: see docs/delivery.md.')
  const { delivery = value } = value as { delivery?: object }
  const { recipient } = delivery as { recipient?: object }
  if (typeof recipient === 'object' && recipient !== null && 'd' in recipient)
    throw new UsageFailure(`${file} holds a private key`, 'Nothing was sent. Take "d" out: what is left is the public half.')
  return delivery
}
