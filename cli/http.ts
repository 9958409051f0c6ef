/** The API as the command calls it. */
import { PROBLEM_MEDIA_TYPE, type ProblemDocument } from '@keyturn/contract/problem'
import { Failure, ProblemFailure } from './failure.ts'
import type { Settings } from './settings.ts'

const TIMEOUT_MS = 30_000
const JSON_BODY = { 'content-type': 'application/json' }

export interface Api {
  get<T>(path: string, query?: Readonly<Record<string, string | undefined>>): Promise<T>
  post<T>(path: string, body: object): Promise<T>
  /** The same with many JSON objects, one a line. */
  postLines<T>(path: string, lines: string): Promise<T>
  put<T>(path: string, body: object): Promise<T>
  patch<T>(path: string, body: object): Promise<T>
  delete<T>(path: string): Promise<T>
  /** An answer that is not JSON. */
  text(path: string): Promise<string>
  /** An open stream of server-sent events; undefined when there is nothing more to come (204). */
  stream(path: string, lastEventId: string | undefined, signal?: AbortSignal): Promise<ReadableStream<Uint8Array> | undefined>
}

export function createApi({ api, token }: Settings): Api {
  async function send(path: string, init: RequestInit): Promise<Response> {
    let response: Response
    try {
      response = await fetch(api + path, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } })
    } catch (error) {
      throw new Failure(`The API at ${new URL(api).host} does not answer`, whyNot(error), { cause: error })
    }
    if (!response.ok) throw await failureOf(response)
    return response
  }
  const json = async <T>(path: string, init: RequestInit): Promise<T> => {
    const response = await send(path, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) })
    try {
      return (await response.json()) as T
    } catch (error) {
      throw new Failure('The answer is not JSON', 'Is KEYTURN_API the address of Keyturn?', { cause: error })
    }
  }
  return {
    get<T>(path: string, query: Readonly<Record<string, string | undefined>> = {}) {
      const set = Object.entries(query).flatMap(([name, value]) =>
        value === undefined ? [] : [[name, value] as [string, string]],
      )
      return json<T>(set.length === 0 ? path : `${path}?${new URLSearchParams(set)}`, {})
    },
    post<T>(path: string, body: object) {
      return json<T>(path, { method: 'POST', headers: JSON_BODY, body: JSON.stringify(body) })
    },
    postLines<T>(path: string, lines: string) {
      return json<T>(path, { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: lines })
    },
    put<T>(path: string, body: object) {
      return json<T>(path, { method: 'PUT', headers: JSON_BODY, body: JSON.stringify(body) })
    },
    patch<T>(path: string, body: object) {
      return json<T>(path, { method: 'PATCH', headers: JSON_BODY, body: JSON.stringify(body) })
    },
    delete<T>(path: string) {
      return json<T>(path, { method: 'DELETE' })
    },
    async text(path) {
      return (await send(path, { signal: AbortSignal.timeout(TIMEOUT_MS) })).text()
    },
    async stream(path, lastEventId, signal) {
      const headers = { accept: 'text/event-stream', ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }) }
      const response = await send(path, { headers, ...(signal === undefined ? {} : { signal }) })
      return response.status === 204 ? undefined : (response.body ?? undefined)
    },
  }
}

function whyNot(error: unknown): string {
  if (error instanceof Error && error.name === 'TimeoutError') return `It took longer than ${TIMEOUT_MS / 1000} s.`
  const { cause } = error as { cause?: { code?: string } }
  return `Is it running? ${cause?.code === undefined ? '' : `(${cause.code}) `}KEYTURN_API says where it is.`
}

async function failureOf(response: Response): Promise<Failure> {
  const isProblem = response.headers.get('content-type')?.startsWith(PROBLEM_MEDIA_TYPE) === true
  const text = await response.text().catch(() => '')
  if (isProblem) return new ProblemFailure(JSON.parse(text) as ProblemDocument)
  return new Failure(
    `The API answers with status ${response.status}`,
    'It says nothing more. Is KEYTURN_API the address of Keyturn?',
  )
}
