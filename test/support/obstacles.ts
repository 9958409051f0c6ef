/** Obstacles that stop one credential's rotation at a known place: the registry's database refuses something until they are removed. */
import type { CredentialId, KeyEventType } from '@keyturn/contract'
import type { Database } from '../../registry/database.ts'
import { SQL_STATES } from '../../registry/errors.ts'

/**
 * What is refused for keys of a credential whose last change is of this kind: to note that it was `published`, which is tried
 * again and again; or the `change` itself, for good.
 */
export interface Obstacle {
  readonly refuses: 'published' | 'change'
  readonly event: KeyEventType
}

const INSTALL = `
create table if not exists obstacles (credential_id text, refuses text, event text);
create or replace function meet_obstacle() returns trigger language plpgsql as $$
begin
  if new.published_revision is distinct from old.published_revision
     and exists (select from obstacles where (credential_id, refuses, event) = (new.credential_id, 'published', new.event)) then
    raise exception 'an obstacle of the test';
  end if;
  if new.revision is distinct from old.revision
     and exists (select from obstacles where (credential_id, refuses, event) = (new.credential_id, 'change', new.event)) then
    raise exception 'an obstacle of the test' using errcode = '${SQL_STATES.illegalTransition}';
  end if;
  return new;
end $$;
create or replace trigger meet_obstacle before update on keys for each row execute function meet_obstacle();`

/** Puts an obstacle in the way of a credential. @returns what removes it */
export async function obstruct(
  db: Database,
  credentialId: CredentialId,
  { refuses, event }: Obstacle,
): Promise<() => Promise<void>> {
  // One at a time: two that install it at once would trip over each other.
  await db.tx(async (tx) => {
    await tx.query('select pg_advisory_xact_lock(7041978)')
    await tx.query(INSTALL)
    await tx.query('insert into obstacles values ($1, $2, $3)', [credentialId, refuses, event])
  })
  return async () => {
    await db.query('delete from obstacles where credential_id = $1', [credentialId])
  }
}
