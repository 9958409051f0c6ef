/** Whose name a request to AWS is signed in. */
import { StoreError } from '../store.ts'
import { isObject, noAnswer, parseJson, within } from './remote.ts'

/** As the AWS SDK's credential providers give them. */
export interface AwsCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string | undefined
  readonly expiration?: Date | undefined
}

const RENEW_BEFORE_MS = 5 * 60_000
const CONTAINER = 'http://169.254.170.2'

/**
 * From the environment: AWS_ACCESS_KEY_ID and its like, or the container's endpoint (ECS, EKS Pod Identity). Other ways are a function of
 * the AWS SDK: `fromNodeProviderChain()` of @aws-sdk/credential-providers.
 */
export function environmentCredentials(send: typeof fetch): () => Promise<AwsCredentials> {
  let known: AwsCredentials | undefined
  return async () => {
    const env = globalThis.process?.env ?? {}
    const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, AWS_SESSION_TOKEN: sessionToken } = env
    if (accessKeyId && secretAccessKey) return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) }
    const relative = env['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI']
    const url = relative ? CONTAINER + relative : env['AWS_CONTAINER_CREDENTIALS_FULL_URI']
    if (!url) {
      const message = 'There are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give `credentials`.'
      throw new StoreError('not-allowed', message)
    }
    if (known?.expiration === undefined || known.expiration.getTime() - Date.now() < RENEW_BEFORE_MS) {
      known = await ofContainer(send, url, env)
    }
    return known
  }
}

async function ofContainer(send: typeof fetch, url: string, env: NodeJS.ProcessEnv): Promise<AwsCredentials> {
  const where = 'the endpoint for AWS credentials of this container'
  const file = env['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE']
  const token = file ? await readToken(file, where) : env['AWS_CONTAINER_AUTHORIZATION_TOKEN']
  let answer: unknown
  try {
    const response = await send(url, {
      headers: token ? { authorization: token } : {},
      redirect: 'error',
      signal: within(undefined),
    })
    answer = response.ok ? parseJson(await response.text()) : undefined
  } catch (error) {
    throw noAnswer(error, undefined, where)
  }
  const { AccessKeyId, SecretAccessKey, Token, Expiration } = isObject(answer) ? answer : {}
  if (typeof AccessKeyId !== 'string' || typeof SecretAccessKey !== 'string') {
    throw new StoreError('not-allowed', `${where} gives none: check the role of the task or pod.`)
  }
  return {
    accessKeyId: AccessKeyId,
    secretAccessKey: SecretAccessKey,
    ...(typeof Token === 'string' ? { sessionToken: Token } : {}),
    ...(typeof Expiration === 'string' ? { expiration: new Date(Expiration) } : {}),
  }
}

async function readToken(file: string, where: string): Promise<string> {
  const { readFile } = await import('node:fs/promises')
  try {
    return (await readFile(file, 'utf8')).trim()
  } catch (error) {
    throw new StoreError('not-allowed', `${where} wants a token, and ${file} can not be read.`, { cause: error })
  }
}
