/** Tokens and credentials that a store is given by a function of its caller, which may fail in ways of its own. */
import { expect, test } from 'vitest'
import { awsStore } from '../../../client/src/aws.ts'
import { kubernetesStore } from '../../../client/src/kubernetes.ts'
import type { Store } from '../../../client/src/store.ts'
import { StoreError } from '../../../client/src/store.ts'
import { vaultStore } from '../../../client/src/vault.ts'
import { codeOf, holding, NOBODY, newKey } from './behaviour.ts'

const STORES: Readonly<Record<string, (provide: () => never) => Store>> = {
  vault: (token) => vaultStore({ address: NOBODY, path: 'key', token }),
  kubernetes: (token) => kubernetesStore({ address: NOBODY, namespace: 'shop', name: 'key', token }),
  aws: (provide) => awsStore({ endpoint: NOBODY, region: 'eu-central-1', secretId: 'key', credentials: async () => provide() }),
}

test.each(Object.entries(STORES))('%s: those that can not be had now may be had later, whatever is thrown', async (_, open) => {
  const failing = (error: unknown): Store =>
    open(() => {
      throw error
    })
  for (const error of [
    new Error('PRECIOUS'),
    Object.assign(new Error('PRECIOUS'), { code: 'ETIMEDOUT' }),
    'PRECIOUS',
    undefined,
  ]) {
    for (const work of [() => failing(error).read(), () => failing(error).replace(holding(newKey()), undefined)]) {
      const thrown = (await work().catch((caught: unknown) => caught)) as StoreError
      expect([thrown.code, thrown.message]).toEqual(['unreachable', expect.stringContaining('no credentials for the')])
      expect(thrown.message).not.toContain('PRECIOUS')
    }
  }
  expect(await codeOf(failing(new StoreError('not-allowed', 'there are none')).read())).toBe('not-allowed')
})
