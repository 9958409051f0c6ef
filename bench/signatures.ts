/**
 * What one signed request costs at a gateway: beside the bare HMAC-SHA-256 over the same signature base, beside hawk's check of the same request, and
 * for Ed25519 beside the bare verification.
 */
import {
  createHmac,
  createSecretKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  timingSafeEqual,
  verify,
} from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { bodySha256, createSealingKey, type KeyRecord, signPlainly, type Verifier, verifierAad } from '@keyturn/contract'
import { createLog, KeyCache } from '@keyturn/gateway'
import { client, server } from 'hawk'
import { createVerifier, httpbis } from 'http-message-signatures'
import { Flaw } from '../gateway/src/signatures/flaw.ts'
import { readMessageSignature } from '../gateway/src/signatures/message-signature.ts'
import { readPlainSignature } from '../gateway/src/signatures/plain-signature.ts'
import { signatureBase, type Target } from '../gateway/src/signatures/signature-base.ts'
import type { SignedRequest, SigningKind } from '../gateway/src/signatures/signed-request.ts'
import { SigningKeys } from '../gateway/src/signatures/signing-keys.ts'
import { recordOf, tokenOf } from './keys.ts'
import { median } from './statistics.ts'

const KEYS = 1_000
const WARM_UP_ROUNDS = 5
const HOST = 'api.example.com'
const CREATED = 1_767_225_600
const NO_BODY = Buffer.alloc(0)

const NAMES = ['bareHmac', 'hmac', 'plain', 'hawk', 'library', 'bareEd25519', 'ed25519'] as const
type Name = (typeof NAMES)[number]

export interface SignatureFigures {
  readonly rounds: number
  readonly perRound: number
  /** Microseconds for one, medians over the rounds. */
  readonly us: Readonly<Record<Name, number>>
  /** Medians over the rounds of the ratio in each. */
  readonly hmacOverBare: number
  readonly plainOverBare: number
  readonly fasterThanHawk: number
  readonly fasterThanLibrary: number
  readonly ed25519OverBare: number
}

const TOKENS = Array.from({ length: KEYS }, (_, i) => tokenOf(i))
const idOf = (kind: SigningKind, i: number): string => `${kind === 'ed25519' ? 'e' : 'h'}${String(i).padStart(15, '0')}`
const urlOf = (i: number): string => `/v1/orders?limit=${i}&symbol=BTCUSDT`
const nonce = (): string => randomBytes(16).toString('base64url')

/** The gateway's own, with a key of either kind for each token. */
function openKeys(publicKeys: readonly KeyObject[]): SigningKeys {
  const kek = randomBytes(32)
  const cache = new KeyCache()
  const add = (i: number, keyId: string, verifier: Verifier): void =>
    void cache.apply({ ...recordOf(i, TOKENS[i] ?? ''), keyId, revision: 1, verifier } as KeyRecord)
  for (const [i, token] of TOKENS.entries()) {
    const keyId = idOf('hmac-sha256', i)
    const { kekId, ...sealed } = createSealingKey(kek).seal(token, verifierAad(keyId, 1))
    const [sealNonce, ciphertext] = [sealed.nonce.toString('base64'), sealed.ciphertext.toString('base64')]
    add(i, keyId, { kind: 'hmac-sha256', kekId, nonce: sealNonce, ciphertext, revision: 1 })
    const { x = '' } = publicKeys[i]?.export({ format: 'jwk' }) ?? {}
    add(i, idOf('ed25519', i), { kind: 'ed25519', publicKey: Buffer.from(x, 'base64url').toString('base64') })
  }
  return new SigningKeys({ cache, keks: [kek], log: createLog('silent') })
}

interface Signed {
  readonly target: Target
  readonly base: string
  readonly signature: Buffer
}

/** A request of each key, with header fields as they come from Node: each in a list. */
function signAll(kind: SigningKind, signBy: (i: number, data: Buffer) => Buffer): Signed[] {
  return TOKENS.map((_, i) => {
    const params = `("@method" "@target-uri");created=${CREATED + i};keyid="${idOf(kind, i)}";nonce="${nonce()}"`
    const bare = { method: 'GET', scheme: 'https', authority: HOST, url: urlOf(i), headers: {} }
    const base = signatureBase({ components: ['@method', '@target-uri'], params }, bare)
    if (base instanceof Flaw) throw new Error(`the bench is wrong: ${base.detail}`)
    const signature = signBy(i, Buffer.from(base))
    const shown = { 'signature-input': [`sig=${params}`], signature: [`sig=:${signature.toString('base64')}:`] }
    return { target: { ...bare, headers: { host: [HOST], 'user-agent': ['bench/1'], ...shown } }, base, signature }
  })
}

const signAllPlainly = (): Target[] =>
  TOKENS.map((token, i) => {
    const parts = {
      timestamp: String(CREATED * 1_000 + i),
      nonce: nonce(),
      method: 'GET',
      path: urlOf(i),
      bodySha256: bodySha256(NO_BODY),
    }
    const headers = {
      'x-key-id': [idOf('hmac-sha256', i)],
      'x-timestamp': [parts.timestamp],
      'x-nonce': [parts.nonce],
      'x-signature': [signPlainly(token, parts)],
    }
    return { method: 'GET', scheme: 'https', authority: HOST, url: urlOf(i), headers }
  })

export async function measureSignatures({ rounds = 60, perRound = 500 } = {}): Promise<SignatureFigures> {
  const pairs = TOKENS.map(() => generateKeyPairSync('ed25519'))
  const keys = openKeys(pairs.map(({ publicKey }) => publicKey))
  const secrets = TOKENS.map((token) => createSecretKey(Buffer.from(token)))
  const byHmac = signAll('hmac-sha256', (i, data) =>
    createHmac('sha256', secrets[i] as KeyObject)
      .update(data)
      .digest(),
  )
  const byEd25519 = signAll('ed25519', (i, data) => sign(null, data, pairs[i]?.privateKey as KeyObject))
  const plainly = signAllPlainly()
  const ids = TOKENS.map((key, i) => ({ id: idOf('hmac-sha256', i), key, algorithm: 'sha256' as const }))
  const credentials = new Map(ids.map((each) => [each.id, each]))
  const hawked = ids.map((each, i) => {
    const { header: authorization } = client.header(`https://${HOST}${urlOf(i)}`, 'GET', { credentials: each })
    return { method: 'GET', url: urlOf(i), headers: { host: `${HOST}:443`, authorization } }
  })
  const pick = <T>(of: readonly T[], i: number): T => of[i % KEYS] as T
  const check = (read: SignedRequest | Flaw): boolean => {
    if (read instanceof Flaw) return false
    const { keyId, kind, base, signature } = read
    return keys.check(keyId, kind, typeof base === 'string' ? base : base(NO_BODY), signature) === 'right'
  }
  return race(rounds, perRound, {
    bareHmac: (i) => {
      const { base, signature } = pick(byHmac, i)
      return timingSafeEqual(createHmac('sha256', pick(secrets, i)).update(base).digest(), signature)
    },
    hmac: (i) => check(readMessageSignature(pick(byHmac, i).target, false)),
    plain: (i) => check(readPlainSignature(pick(plainly, i))),
    // Nobody looks at nonces here, neither there nor in ours.
    hawk: async (i) => {
      const find = async (id: string) => credentials.get(id) as never
      const found = await server.authenticate(pick(hawked, i) as never, find, { timestampSkewSec: 3_600 })
      return found.credentials !== undefined
    },
    library: async (i) => {
      const { method, url, headers } = pick(byHmac, i).target
      const keyLookup = async ({ keyid = '' }: { keyid?: string }) => {
        const found = credentials.get(keyid)
        return found === undefined ? null : { id: keyid, verify: createVerifier(found.key, 'hmac-sha256') }
      }
      const request = { method, url: `https://${HOST}${url}`, headers: headers as Record<string, string[]> }
      return (await httpbis.verifyMessage({ keyLookup }, request)) === true
    },
    bareEd25519: (i) => {
      const { base, signature } = pick(byEd25519, i)
      return verify(null, Buffer.from(base), pick(pairs, i).publicKey, signature)
    },
    ed25519: (i) => check(readMessageSignature(pick(byEd25519, i).target, false)),
  })
}

/** Lets all contestants check the same number of requests in each round, and begins each round with another one. */
async function race(
  rounds: number,
  perRound: number,
  contestants: Readonly<Record<Name, (i: number) => boolean | Promise<boolean>>>,
): Promise<SignatureFigures> {
  const times = Object.fromEntries(NAMES.map((name) => [name, []])) as unknown as Record<Name, number[]>
  for (let round = 0; round < WARM_UP_ROUNDS + rounds; round++) {
    for (let turn = 0; turn < NAMES.length; turn++) {
      const name = NAMES[(turn + round) % NAMES.length] as Name
      let right = 0
      const start = process.hrtime.bigint()
      for (let i = 0; i < perRound; i++) {
        const answer = contestants[name](round * perRound + i)
        if (answer === true || (answer !== false && (await answer))) right += 1
      }
      const us = Number(process.hrtime.bigint() - start) / 1_000 / perRound
      if (right !== perRound) throw new Error(`the bench is wrong: ${name} accepted ${right} of ${perRound}`)
      if (round >= WARM_UP_ROUNDS) times[name].push(us)
    }
    await nextTurn()
  }
  const ratio = (of: Name, to: Name): number => median(times[of].map((us, i) => us / (times[to][i] ?? us)))
  return {
    rounds,
    perRound,
    us: Object.fromEntries(NAMES.map((name) => [name, median(times[name])])) as Record<Name, number>,
    hmacOverBare: ratio('hmac', 'bareHmac'),
    plainOverBare: ratio('plain', 'bareHmac'),
    fasterThanHawk: ratio('hawk', 'hmac'),
    fasterThanLibrary: ratio('library', 'hmac'),
    ed25519OverBare: ratio('ed25519', 'bareEd25519'),
  }
}
