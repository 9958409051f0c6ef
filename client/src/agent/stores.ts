/** The store that a configuration names. */
import { readFileSync } from 'node:fs'
import type { Store } from '../store.ts'
import { envFileStore } from '../stores/env-file.ts'
import { fileStore } from '../stores/file.ts'
import type { AgentConfig } from './config.ts'

/** Those on servers are loaded when they are wanted. */
export async function openStore({
  store,
  credentialId,
  kind,
}: Pick<AgentConfig, 'store' | 'credentialId' | 'kind'>): Promise<Store> {
  const ofToken = kind === 'ed25519' ? {} : { kind }
  const of = { ...ofToken, ...(credentialId === undefined ? {} : { credentialId }) }
  if ('file' in store) return fileStore(store.file)
  if ('env' in store) return envFileStore({ path: store.env, variable: store.variable, ...ofToken })
  if ('aws' in store) return (await import('../stores/aws.ts')).awsStore({ ...store.aws, ...of })
  if ('kubernetes' in store) return (await import('../stores/kubernetes.ts')).kubernetesStore({ ...store.kubernetes, ...of })
  const { tokenFile, ...vault } = store.vault
  // Whoever renews the token writes the file anew.
  const token = tokenFile === undefined ? {} : { token: () => readFileSync(tokenFile, 'utf8').trim() }
  return (await import('../stores/vault.ts')).vaultStore({ ...vault, ...token, ...of })
}
