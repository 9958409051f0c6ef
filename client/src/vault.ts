/** `@keyturn/client/vault`: of Vault and of OpenBao. */
export { type VaultOptions, vaultStore } from './stores/vault.ts'
