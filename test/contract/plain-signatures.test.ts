/** Signatures in plain header fields, and another language that makes them from contract/README.md alone. */
import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { bodySha256, parseToken, plainCanonical, signPlainly } from '@keyturn/contract'
import { expect, test } from 'vitest'
import { vectors } from './vectors.ts'

interface Vector {
  readonly name: string
  readonly timestamp: string
  readonly nonce: string
  readonly method: string
  readonly path: string
  readonly sequence?: string
  readonly body: string
  readonly bodySha256: string
  readonly canonical: string
  readonly signature: string
}
const { token, requests } = vectors<{ token: string; requests: Vector[] }>('plain-signatures')
const script = fileURLToPath(new URL('plain-signatures.py', import.meta.url))
const room = fileURLToPath(new URL('../../contract/vectors/', import.meta.url))
const python = spawnSync('python3', ['--version']).status === 0

test.each(requests)('$name', ({ body, canonical, signature, ...request }) => {
  expect(parseToken(token).ok).toBe(true)
  expect(bodySha256(Buffer.from(body))).toBe(request.bodySha256)
  expect(plainCanonical(request)).toBe(canonical)
  expect(signPlainly(token, request)).toBe(signature)
})

test.skipIf(!python)('an implementation in Python makes the same signatures', () => {
  expect(execFileSync('python3', [script, room], { encoding: 'utf8' }).trim()).toBe(`${requests.length} requests, 0 wrong`)
})
