import { fileURLToPath } from 'node:url'
import { runner } from 'node-pg-migrate'

const MIGRATIONS = fileURLToPath(new URL('../infra/migrations', import.meta.url))

/** Brings the registry's tables up to date. Several processes may call it at once: one works, the others wait. */
export async function migrate(url: string): Promise<void> {
  await runner({
    databaseUrl: url,
    dir: MIGRATIONS,
    direction: 'up',
    migrationsTable: 'keyturn_migrations',
    checkOrder: true,
    advisoryLockMode: 'wait',
    log: () => {},
  })
}
