/**
 * A secret of AWS Secrets Manager, its staging labels as in a rotation of its own: what is under way is AWSPENDING; the key in use is
 * AWSCURRENT, where programs read it; the one before it is AWSPREVIOUS, and stays there.
 *
 * Every write is a new version. The label KEYTURN stands at the last one, and moving it on is the compare-and-set: Secrets Manager takes a
 * label only from the version that the request names. AWSCURRENT moves only when the key in use changes.
 */
import { AwsClient } from 'aws4fetch'
import { type Store, StoreConflict, type StoredValue, StoreError } from '../store.ts'
import { type AwsCredentials, environmentCredentials } from './aws-credentials.ts'
import { credentialOf, type FieldOptions, type Fields, withCredential } from './fields.ts'
import { isObject, noAnswer, parseJson, provided, within } from './remote.ts'

export interface AwsOptions extends FieldOptions {
  /** Name or ARN. A secret that is not there is made, where the role may. */
  readonly secretId: string
  /** AWS_REGION or AWS_DEFAULT_REGION unless given. */
  readonly region?: string
  /** `fromNodeProviderChain()` of the AWS SDK is one; those of the environment, or of the container, unless given. */
  readonly credentials?: () => Promise<AwsCredentials>
  /** AWS_ENDPOINT_URL_SECRETS_MANAGER or AWS_ENDPOINT_URL unless given; else that of the region. */
  readonly endpoint?: string
  readonly fetch?: typeof fetch
}

const HEAD = 'KEYTURN'
/** Of a version that is not the head yet. */
const DRAFT = 'KEYTURN-DRAFT'

interface Version {
  readonly id: string
  readonly stages: readonly string[]
  readonly fields: Fields
}

/** What the secret holds; `head` is the version at HEAD, or AWSCURRENT where Keyturn has not written yet. */
interface Contents {
  readonly head: Version
  readonly current: Version
  readonly value: StoredValue | undefined
}

interface Refusal {
  readonly type: string
  readonly message: string
  readonly status: number
}

class AwsRefusal extends Error {
  readonly refusal: Refusal

  constructor(refusal: Refusal) {
    super(refusal.type)
    this.refusal = refusal
  }
}

const setting = (name: string): string | undefined => globalThis.process?.env[name] || undefined

/** The role needs GetSecretValue, PutSecretValue and UpdateSecretVersionStage, and CreateSecret where the secret is not there yet. */
export function awsStore(options: AwsOptions): Store {
  const { secretId, region = setting('AWS_REGION') ?? setting('AWS_DEFAULT_REGION') } = options
  if (region === undefined) throw new TypeError('Which region of AWS? Give `region`, or set AWS_REGION.')
  const send = options.fetch ?? fetch
  const credentials = options.credentials ?? environmentCredentials(send)
  const endpoint =
    options.endpoint ??
    setting('AWS_ENDPOINT_URL_SECRETS_MANAGER') ??
    setting('AWS_ENDPOINT_URL') ??
    `https://secretsmanager.${region}.amazonaws.com`
  const where = `the secret ${secretId} of AWS Secrets Manager in ${region}`

  /** @throws AwsRefusal, StoreError */
  async function call(action: string, input: object, signal: AbortSignal | undefined): Promise<Fields> {
    const { accessKeyId, secretAccessKey, sessionToken } = await provided(credentials, where)
    const signer = new AwsClient({
      accessKeyId,
      secretAccessKey,
      ...(sessionToken === undefined ? {} : { sessionToken }),
      service: 'secretsmanager',
      region: region as string,
    })
    const request = await signer.sign(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `secretsmanager.${action}` },
      body: JSON.stringify(input),
    })
    let status: number
    let body: unknown
    try {
      const response = await send(request, { redirect: 'error', signal: within(signal) })
      status = response.status
      body = parseJson(await response.text())
    } catch (error) {
      throw noAnswer(error, signal, where)
    }
    const said = isObject(body) ? body : {}
    if (status === 200) return said
    const type = String(said['__type'] ?? '').replace(/^.*#/, '')
    throw new AwsRefusal({ type, message: String(said['message'] ?? said['Message'] ?? ''), status })
  }

  function storeErrorOf(error: unknown): unknown {
    if (!(error instanceof AwsRefusal)) return error
    const { type, status } = error.refusal
    const code = type === '' ? `it answered ${status}` : type
    if (/AccessDenied|UnrecognizedClient|InvalidClientTokenId|Signature|ExpiredToken|NotAuthorized/.test(type)) {
      const message = `${where} is not for these credentials (${code}): the role needs GetSecretValue, PutSecretValue and UpdateSecretVersionStage, and the use of its KMS key.`
      return new StoreError('not-allowed', message)
    }
    // Of a version or a secret that somebody else has made in between.
    if (type === 'ResourceExistsException') return new StoreConflict()
    if (/LimitExceeded/.test(type)) return new StoreError('no-space', `${where} has no room for another version (${code}).`)
    if (/Throttl|InternalService|TooManyRequests/.test(type) || status >= 500) {
      return new StoreError('unreachable', `${where} can not be reached now (${code}). Trying again may help.`)
    }
    // Of a secret that is marked for deletion, and of others that are in no state for it.
    const hint = type === 'InvalidRequestException' ? ' Is it marked for deletion?' : ''
    return new StoreError('failed', `${where}: Secrets Manager refused (${code}).${hint}`)
  }

  async function versionAt(stage: string, signal: AbortSignal | undefined): Promise<Version | undefined> {
    let answer: Fields
    try {
      answer = await call('GetSecretValue', { SecretId: secretId, VersionStage: stage }, signal)
    } catch (error) {
      if (error instanceof AwsRefusal && error.refusal.type === 'ResourceNotFoundException') return undefined
      throw error
    }
    const { VersionId, VersionStages, SecretString } = answer
    if (typeof VersionId !== 'string' || typeof SecretString !== 'string') {
      throw new StoreError('unreadable', `${where} is not a text. Put the key there as a text, or name another secret.`)
    }
    const fields = parseJson(SecretString)
    if (!isObject(fields)) {
      const message = `${where} is not a JSON object. Make it one, {"${options.field ?? 'token'}": "<the key>"}, and have your programs read that field.`
      throw new StoreError('unreadable', message)
    }
    return { id: VersionId, stages: Array.isArray(VersionStages) ? VersionStages : [], fields }
  }

  async function look(signal: AbortSignal | undefined): Promise<Contents | undefined> {
    const head = await versionAt(HEAD, signal)
    const current = head?.stages.includes('AWSCURRENT') === true ? head : await versionAt('AWSCURRENT', signal)
    if (current === undefined) return undefined
    const inUse = credentialOf(current.fields, where, options)
    if (head === undefined || head === current) return { head: current, current, value: inUse }
    const value = credentialOf(head.fields, where, options)
    if (value === undefined || inUse === undefined || inUse.current?.keyId === value.current?.keyId)
      return { head, current, value }
    // A version without a document came from somebody else after the head: the key in use is theirs.
    if (current.fields['keyturn'] === undefined) return { head, current, value: inUse }
    // Whoever wrote the head has not come to this.
    await makeCurrent(head.id, current.id, signal)
    return { head, current: head, value }
  }

  const move = (stage: string, from: string | undefined, to: string | undefined, signal: AbortSignal | undefined) =>
    call(
      'UpdateSecretVersionStage',
      {
        SecretId: secretId,
        VersionStage: stage,
        ...(from === undefined ? {} : { RemoveFromVersionId: from }),
        ...(to === undefined ? {} : { MoveToVersionId: to }),
      },
      signal,
    )

  /** Whether it was moved from there; it was not, when somebody else has been first. */
  async function moved(...movement: Parameters<typeof move>): Promise<boolean> {
    try {
      await move(...movement)
      return true
    } catch (error) {
      if (error instanceof AwsRefusal && error.refusal.type === 'InvalidParameterException') return false
      throw error
    }
  }

  /** Secrets Manager moves AWSPREVIOUS by itself. */
  const makeCurrent = (id: string, from: string, signal: AbortSignal | undefined) => moved('AWSCURRENT', from, id, signal)

  /** Keyturn's first version of a secret that has a key already: the same from whoever comes first, with the same id. */
  async function adopt(contents: Contents, value: StoredValue, signal: AbortSignal | undefined): Promise<Contents> {
    const { current } = contents
    const fields = withCredential(value, current.fields, options)
    const id = await digest(`${secretId} ${current.id}`)
    const version = { SecretId: secretId, ClientRequestToken: id, SecretString: JSON.stringify(fields), VersionStages: [HEAD] }
    await call('PutSecretValue', version, signal)
    return { ...contents, head: { id, stages: [HEAD], fields } }
  }

  /** Whoever fills the same empty place asks for the same id, and one of them gets it. */
  async function begin(next: StoredValue, empty: Version | undefined, signal: AbortSignal | undefined): Promise<string> {
    const id = await digest(empty === undefined ? secretId : `${secretId} ${empty.id}`)
    const fields = withCredential(next, empty?.fields ?? {}, options)
    const version = { ClientRequestToken: id, SecretString: JSON.stringify(fields) }
    try {
      await call('PutSecretValue', { SecretId: secretId, ...version, VersionStages: [HEAD, 'AWSCURRENT'] }, signal)
    } catch (error) {
      if (!(error instanceof AwsRefusal) || error.refusal.type !== 'ResourceNotFoundException') throw error
      await call('CreateSecret', { Name: secretId, ...version }, signal)
    }
    return id
  }

  async function goOn(next: StoredValue, contents: Contents, signal: AbortSignal | undefined): Promise<string> {
    const { head, current, value } = contents
    const changes = value?.current?.keyId !== next.current?.keyId
    const id = crypto.randomUUID()
    const SecretString = JSON.stringify(withCredential(next, current.fields, options))
    await call('PutSecretValue', { SecretId: secretId, ClientRequestToken: id, SecretString, VersionStages: [DRAFT] }, signal)
    const first = await moved(HEAD, head.id, id, signal)
    // A version without a label goes away by itself in time.
    await moved(DRAFT, id, undefined, signal)
    if (!first) throw new StoreConflict()
    const pending = [head, current].find(({ stages }) => stages.includes('AWSPENDING'))?.id
    if (changes || next.pending !== undefined) await moved('AWSPENDING', pending, id, signal)
    // Nothing is under way any more, and the key has stayed: the claim was given up.
    else if (pending === head.id && pending !== current.id) await moved('AWSPENDING', pending, undefined, signal)
    if (changes) await makeCurrent(id, current.id, signal)
    return id
  }

  return {
    async read(signal) {
      try {
        const contents = await look(signal)
        return contents?.value === undefined ? undefined : { value: contents.value, version: contents.head.id }
      } catch (error) {
        throw storeErrorOf(error)
      }
    },

    async replace(next, after, signal) {
      try {
        const contents = await look(signal)
        if ((contents?.value === undefined ? undefined : contents.head.id) !== after) throw new StoreConflict()
        if (contents?.value === undefined) return await begin(next, contents?.current, signal)
        const adopted = contents.head.stages.includes(HEAD) ? contents : await adopt(contents, contents.value, signal)
        return await goOn(next, adopted, signal)
      } catch (error) {
        throw storeErrorOf(error)
      }
    },
  }
}

/** 64 hexadecimal digits: as long as a version's id may be. */
async function digest(text: string): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(`keyturn ${text}`)))
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
