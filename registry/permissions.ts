/** What the keys of a credential may do, and from where: changed for all of them at once, each by its next revision; and how they reach their client. */
import type { Allow, CredentialId, KeyDelivery, KeyId } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first } from './database.ts'
import { changeDelivery } from './deliveries.ts'
import { RegistryError } from './errors.ts'
import { changeKey, type KeyRow, selectKeysIn } from './key-rows.ts'

export interface PermissionsChange {
  readonly credentialId: string
  /** Nothing: they stay. */
  readonly scopes?: readonly string[] | undefined
  /** Of each part: nothing leaves it, null removes it. Null: no restriction at all. */
  readonly allow?: { readonly [part in keyof Allow]?: Allow[part] | null | undefined } | null | undefined
  /** Nothing: it stays. */
  readonly delivery?: KeyDelivery | undefined
  readonly reason?: string | undefined
  readonly at: Date
  readonly actor: string
}

export interface Permissions {
  readonly credentialId: CredentialId
  readonly scopes: readonly string[]
  readonly allow?: Allow
  /** Keys that have a new revision, which is to be published; none when nothing is new. */
  readonly changed: readonly KeyId[]
}

function merged(before: Allow | null, change: PermissionsChange['allow']): Allow | null {
  if (change === undefined) return before
  const of = <Name extends keyof Allow>(name: Name): Pick<Allow, Name> | object => {
    const value = change?.[name] === undefined && change !== null ? before?.[name] : change?.[name]
    return value == null ? {} : { [name]: value }
  }
  const allow: Allow = { ...of('addresses'), ...of('methods'), ...of('sequence') }
  return Object.keys(allow).length === 0 ? null : allow
}

/** @throws RegistryError unknown-credential */
export async function changePermissions(db: Database, change: PermissionsChange): Promise<Permissions> {
  const { credentialId, delivery, at, actor, reason } = change
  return db.tx(async (tx) => {
    const note = (detail: object) =>
      appendAudit(tx, {
        at,
        actor,
        action: 'credential.updated',
        subject: credentialId,
        detail: { ...detail, ...(reason === undefined ? {} : { reason }) },
      })
    const lockKeys = (): Promise<KeyRow[]> =>
      // Index keys_credential_id_version_key.
      selectKeysIn(tx, `where k.credential_id = $1 and k.state <> 'destroyed' order by k.version for no key update of k`, [
        credentialId,
      ])
    // Keys before their credential, as a rotation locks them; and again, for one that was made until then.
    await lockKeys()
    const before = await first<{ scopes: string[]; allow: Allow | null; permissions: number }>(
      tx,
      'select scopes, allow, permissions from credentials where credential_id = $1 for no key update',
      [credentialId],
    )
    if (before === undefined) throw new RegistryError('unknown-credential', `there is no credential ${credentialId}`)
    // Claims before the audit log.
    const delivered = delivery === undefined ? undefined : await changeDelivery(tx, { credentialId, delivery })
    const scopes = change.scopes ?? before.scopes
    const allow = merged(before.allow, change.allow)
    const answer = { credentialId: credentialId as CredentialId, scopes, ...(allow === null ? {} : { allow }) }
    const same = await first<{ same: boolean }>(
      tx,
      'select scopes = $2 and allow is not distinct from $3 as same from credentials where credential_id = $1',
      [credentialId, scopes, allow],
    )
    if (same?.same === true) {
      if (delivered !== undefined) await note(delivered)
      return { ...answer, changed: [] }
    }
    const permissions = before.permissions + 1
    await tx.query('update credentials set scopes = $2, allow = $3, permissions = $4 where credential_id = $1', [
      credentialId,
      scopes,
      allow,
      permissions,
    ])
    const keys = await lockKeys()
    if (delivered !== undefined) await note(delivered)
    await note({ scopes, allow, before: { scopes: before.scopes, allow: before.allow } })
    for (const key of keys) {
      const { state, sunsetAt, successor } = key
      const kept = { ...(sunsetAt === undefined ? {} : { sunsetAt }), ...(successor === undefined ? {} : { successor }) }
      await changeKey(tx, key, { event: 'keyturn.key.updated', state, permissions, ...kept }, { at, actor })
    }
    return { ...answer, changed: keys.map(({ keyId }) => keyId) }
  })
}
