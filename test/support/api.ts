/** The control plane's API over HTTP, as somebody outside sees it. Every answer is held against /openapi.json. */
import type { ProblemDocument } from '@keyturn/contract'
import type { Logger } from 'pino'
import type { Config } from '../../infra/config.ts'
import { type RunningApi, startApiServer } from '../../workers/api-server.ts'
import type { House } from './house.ts'
import { type AnswerCheck, answerCheck, type OpenApiDocument } from './openapi.ts'

export interface Answer<T> {
  readonly status: number
  readonly headers: Headers
  /** Parsed where it is JSON. What the type says is for the test's convenience: the answer was held against the document. */
  readonly body: T
}

export interface RequestOptions {
  /** An object is sent as JSON, a string as it is. */
  readonly body?: object | string
  readonly headers?: Readonly<Record<string, string>>
  /** The bearer token; the operators' unless given. */
  readonly token?: string | 'none'
  readonly signal?: AbortSignal
}

export class ApiClient {
  readonly url: string
  private readonly operatorToken: string
  private readonly check: AnswerCheck

  constructor(url: string, operatorToken: string, check: AnswerCheck) {
    this.url = url
    this.operatorToken = operatorToken
    this.check = check
  }

  static async at(url: string, operatorToken: string): Promise<ApiClient> {
    const document = (await (await fetch(`${url}/openapi.json`)).json()) as OpenApiDocument
    return new ApiClient(url, operatorToken, answerCheck(document))
  }

  get<T>(path: string, options: RequestOptions = {}): Promise<Answer<T>> {
    return this.request('GET', path, options)
  }

  post<T>(path: string, body?: object | string, options: RequestOptions = {}): Promise<Answer<T>> {
    return this.request('POST', path, body === undefined ? options : { ...options, body })
  }

  /** What a request is refused with. */
  async refusal(method: string, path: string, options: RequestOptions = {}): Promise<ProblemDocument> {
    const { status, body } = await this.request<ProblemDocument>(method, path, options)
    if (status < 400 || body.status !== status)
      throw new Error(`${method} ${path} was answered ${status}, ${JSON.stringify(body)}`)
    return body
  }

  async request<T>(method: string, path: string, options: RequestOptions = {}): Promise<Answer<T>> {
    const { body, headers = {}, token = this.operatorToken, signal } = options
    const response = await fetch(this.url + path, {
      method,
      headers: {
        ...(token === 'none' ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    })
    const text = await response.text()
    const mediaType = response.headers.get('content-type')?.split(';', 1)[0]
    const parsed: unknown = mediaType?.endsWith('json') ? JSON.parse(text) : text
    this.check({ method, path, status: response.status, mediaType, body: parsed })
    return { status: response.status, headers: response.headers, body: parsed as T }
  }
}

export interface ServedApi extends RunningApi {
  readonly client: ApiClient
}

export interface ServeOptions {
  readonly config?: Partial<Config>
  readonly clock?: () => Date
  readonly log?: Logger
}

/** The API of a house, in this process. */
export async function serveApi(house: House, { config = {}, clock, log = house.log }: ServeOptions = {}): Promise<ServedApi> {
  const running = await startApiServer({ ...house.config, ...config }, log, clock)
  return { ...running, client: await ApiClient.at(running.url, house.config.operatorToken) }
}
