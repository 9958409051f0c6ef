/** Taking on a role in a client's AWS account, for as long as one delivery takes (STS, AssumeRoleWithWebIdentity). */
import type { AwsDelivery } from '@keyturn/contract'
import { Undeposited } from './undeposited.ts'

const TIMEOUT_MS = 10_000
/** The shortest that STS gives. */
const SESSION_S = 900
/** What may be otherwise in a moment: AWS could not fetch our public keys, or is busy. */
const LATER = /Throttl|IDPCommunicationError|ServiceUnavailable|InternalFailure|RequestTimeout/

export interface RoleCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken: string
}

/** Of a service in a region: China has a domain of its own. */
export const awsEndpoint = (service: string, region: string): string =>
  `https://${service}.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`

/** @throws Undeposited, Undelivered */
export async function takeOnRole(
  { region, roleArn, stsEndpoint = awsEndpoint('sts', region) }: AwsDelivery,
  { jwt, session }: { readonly jwt: string; readonly session: string },
  { fetch, signal }: { readonly fetch: typeof globalThis.fetch; readonly signal: AbortSignal },
): Promise<RoleCredentials> {
  const response = await fetch(stsEndpoint, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({
      Action: 'AssumeRoleWithWebIdentity',
      Version: '2011-06-15',
      RoleArn: roleArn,
      RoleSessionName: session,
      WebIdentityToken: jwt,
      DurationSeconds: String(SESSION_S),
    }).toString(),
    signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
  })
  const { status } = response
  const text = await response.text()
  const where = `the role ${roleArn}`
  if (status !== 200) {
    // A word of a closed list, unless somebody else answers.
    const code = /<Code>([A-Za-z]{1,60})<\/Code>/.exec(text)?.[1] ?? ''
    const refused = status >= 400 && status <= 499 && status !== 408 && status !== 429 && !LATER.test(code)
    throw new Undeposited(`${where} could not be taken on: STS answered ${`${status} ${code}`.trim()}`, { refused })
  }
  const accessKeyId = element(text, 'AccessKeyId')
  const secretAccessKey = element(text, 'SecretAccessKey')
  const sessionToken = element(text, 'SessionToken')
  if (accessKeyId === undefined || secretAccessKey === undefined || sessionToken === undefined)
    throw new Undeposited(`${where} could not be taken on: this is not how STS answers`, { refused: true })
  return { accessKeyId, secretAccessKey, sessionToken }
}

/** None of these holds a character that XML would escape. */
const element = (xml: string, name: string): string | undefined =>
  new RegExp(`<${name}>\\s*([A-Za-z0-9+/=_-]+)\\s*</${name}>`).exec(xml)?.[1]
