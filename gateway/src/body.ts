/** The body of a request, looked at before it is handed on: only where a digest has to be compared, and within a limit. */
import type { IncomingMessage } from 'node:http'

export interface BodyLimits {
  /** Bytes. */
  readonly most: number
  /** For how long one may take to arrive. */
  readonly withinMs: number
  /** It is not waited for any more. */
  readonly stop?: AbortSignal
  /** So many more bytes of it are held. */
  readonly arrived?: (bytes: number) => void
}
/** `incomplete`: it broke off, or was not what its head said. */
export type BodyFlaw = 'too-large' | 'too-slow' | 'incomplete'

export interface RequestBody {
  /** There is one, although the head of the request may not say so (HTTP/2). */
  readonly announced?: boolean
  /** `read` says what has arrived, and lets go of it when it is stopped. Of others, all that is announced counts as held from the start. */
  readonly tellsArrival?: boolean
  /** Reads all of it; whoever handles the request can read it again. Asked for once at most. */
  read(limits: BodyLimits): Promise<Buffer | BodyFlaw>
}

/** Whether there is one, as the head of the request says. */
export function announcesBody(headers: Readonly<Record<string, unknown>>): boolean {
  const { 'transfer-encoding': chunked, 'content-length': length } = headers
  return chunked !== undefined || (length !== undefined && String(length) !== '0')
}

/** The body of one of Node's requests. It is put back into the stream before the stream ends, so that the next reader finds it untouched. */
export class StreamedBody implements RequestBody {
  readonly tellsArrival = true
  readonly #request: IncomingMessage
  readonly #onRead: (() => void) | undefined

  /** @param onRead before it is waited for: a client that asked whether to send it must be told to */
  constructor(request: IncomingMessage, onRead?: () => void) {
    this.#request = request
    this.#onRead = onRead
  }

  read(limits: BodyLimits): Promise<Buffer | BodyFlaw> {
    const told = this.#request.headers['content-length']
    const length = told === undefined ? undefined : Number(told)
    if (length !== undefined && length > limits.most) return Promise.resolve('too-large')
    this.#onRead?.()
    return peek(this.#request, length, limits)
  }
}

function peek(request: IncomingMessage, length: number | undefined, limits: BodyLimits): Promise<Buffer | BodyFlaw> {
  const { most, withinMs, stop, arrived } = limits
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let size = 0
    let settled = false
    const settle = (found: Buffer | BodyFlaw): void => {
      settled = true
      clearTimeout(timer)
      stop?.removeEventListener('abort', brokeOff)
      request.off('readable', look).off('close', brokeOff).off('error', brokeOff)
      // In this turn, in which all was read: the stream would end in the next.
      if (typeof found === 'object' && found.length > 0) request.unshift(found)
      resolve(found)
    }
    const brokeOff = (): void => settle('incomplete')
    const isWhole = (): boolean => request.complete || size === length
    const look = (): void => {
      // Only what is there: reading at the end of an empty body would end the stream, and its next reader would wait for ever.
      while (request.readableLength > 0 && size <= most && !settled) {
        const chunk = request.read() as Buffer
        chunks.push(chunk)
        size += chunk.length
        arrived?.(chunk.length)
      }
      if (settled) return
      if (size > most) settle('too-large')
      else if (isWhole()) settle(Buffer.concat(chunks, size))
    }
    const timer = setTimeout(() => settle('too-slow'), withinMs)
    if (request.destroyed || stop?.aborted === true) return brokeOff()
    if (request.complete && request.readableLength === 0) return settle(Buffer.alloc(0))
    stop?.addEventListener('abort', brokeOff)
    request.on('readable', look).on('close', brokeOff).on('error', brokeOff)
  })
}
