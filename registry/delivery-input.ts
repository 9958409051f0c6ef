/** How a credential's keys are to be delivered, as it comes from outside: what is wrong with it is said by field. */
import type { AddressBlock, DeliveryMethod, KeyDelivery, KeyKind } from '@keyturn/contract'
import { flawOfUrl } from './contacts.ts'
import { PublicKeyError } from './public-keys.ts'
import { readRecipient } from './recipients.ts'

/** All that there may be; what belongs to which method is checked here. */
export interface DeliveryInput {
  readonly method: DeliveryMethod
  readonly recipient?: Readonly<Record<string, unknown>>
  readonly address?: string
  readonly mount?: string
  readonly path?: string
  readonly role?: string
  readonly authMount?: string
  readonly namespace?: string
  readonly region?: string
  readonly secretId?: string
  readonly roleArn?: string
  readonly endpoint?: string
  readonly stsEndpoint?: string
  readonly field?: string
  readonly audience?: string
}
type Field = Exclude<keyof DeliveryInput, 'method'>

interface DeliveryFlaw {
  /** A JSON Pointer into the request. */
  readonly path: string
  readonly message: string
}

const FIELDS: { readonly [method in DeliveryMethod]: { readonly needs: readonly Field[]; readonly takes: readonly Field[] } } = {
  claim: { needs: [], takes: [] },
  jwe: { needs: ['recipient'], takes: [] },
  vault: { needs: ['address', 'mount', 'path', 'role'], takes: ['authMount', 'namespace', 'field', 'audience'] },
  'aws-secrets-manager': {
    needs: ['region', 'secretId', 'roleArn'],
    takes: ['endpoint', 'stsEndpoint', 'field', 'audience'],
  },
}

const NAMES = 'is no path of letters, digits and -_.+@ between slashes'
/** What becomes part of a URL: no step may lead up, and none is empty. */
const PATH = /^(?!\.{1,2}(?:\/|$))[\w.+@ -]+(?:\/(?!\.{1,2}(?:\/|$))[\w.+@ -]+)*$/
const SHAPES: { readonly [field in Field]?: readonly [shape: RegExp, message: string] } = {
  mount: [PATH, NAMES],
  path: [PATH, NAMES],
  authMount: [PATH, NAMES],
  namespace: [PATH, NAMES],
  role: [/^[\w.+@-]+$/, 'is no name of a role'],
  region: [/^[a-z]{2}(?:-[a-z]{2,12}){1,3}-\d{1,2}$/, 'is no region of AWS, like eu-central-1'],
  secretId: [/^(?:arn:[\w:/+=.@-]+|[\w/+=.@-]+)$/, 'is neither the name nor the ARN of a secret'],
  roleArn: [/^arn:aws[a-z-]*:iam::\d{12}:role\/[\w+=,.@/-]+$/, 'is not the ARN of a role'],
  // Nothing of ours takes a token whose audience is somebody else's; but none is to be named as ours are.
  audience: [/^(?!keyturn\/)[\x21-\x7e]+$/, "has spaces, or is one of Keyturn's own"],
  field: [/^(?!(?:keyturn|keyId)$)[\w.-]+$/, 'is no name for the field with the token; keyturn and keyId are taken'],
}

/**
 * @param kind of the credential's keys
 * @param allow where keys may be written to though it is not public
 * @returns the delivery in its only form, or all that is wrong with it
 */
export async function readDelivery(
  input: DeliveryInput,
  { kind, allow }: { readonly kind: KeyKind; readonly allow: readonly AddressBlock[] },
): Promise<{ delivery: KeyDelivery } | { flaws: readonly DeliveryFlaw[] }> {
  const { method, recipient, ...texts } = input
  const { needs, takes } = FIELDS[method]
  const flaw = (field: Field | 'method', message: string): DeliveryFlaw => ({ path: `/delivery/${field}`, message })
  if (kind === 'ed25519' && method !== 'claim')
    return { flaws: [flaw('method', 'must be claim for ed25519: the client makes the key, and no secret travels')] }
  const given = (Object.keys(input) as (keyof DeliveryInput)[]).filter(
    (name): name is Field => name !== 'method' && input[name] !== undefined,
  )
  const misplaced = given.filter((name) => !needs.includes(name) && !takes.includes(name))
  const missing = needs.filter((name) => !given.includes(name))
  const flaws = [
    ...misplaced.map((name) => flaw(name, `has no place here: it does not belong to ${method}`)),
    ...missing.map((name) => flaw(name, 'is missing')),
    ...given.flatMap((name) => {
      const message = misplaced.includes(name) ? undefined : flawOf(name, input[name], allow)
      return message === undefined ? [] : [flaw(name, message)]
    }),
  ]
  if (flaws.length > 0) return { flaws }
  if (recipient === undefined) return { delivery: { method, ...texts } as KeyDelivery }
  try {
    await readRecipient(recipient)
  } catch (error) {
    if (!(error instanceof PublicKeyError)) throw error
    return { flaws: [flaw('recipient', error.message)] }
  }
  const { x, y } = recipient as { x: string; y: string }
  return { delivery: { method: 'jwe', recipient: { kty: 'EC', crv: 'P-256', x, y } } }
}

function flawOf(name: Field, value: unknown, allow: readonly AddressBlock[]): string | undefined {
  if (typeof value !== 'string') return undefined
  const [shape, message] = SHAPES[name] ?? []
  if (shape !== undefined && !shape.test(value)) return message
  if (name !== 'address' && name !== 'endpoint' && name !== 'stsEndpoint') return undefined
  const flaw = flawOfUrl(value, 'keys', allow)
  return flaw ?? (/[?#]/.test(value) ? 'must have neither ? nor #' : undefined)
}
