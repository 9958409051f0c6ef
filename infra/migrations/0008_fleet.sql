-- Up Migration

-- The check of a change is a function call, which a condition spares two kinds of updates that may come ten thousand at once: those
-- that only say how a key was published or which of its credential's keys it is; and kills, which are legal from every state that
-- is not final.
drop trigger key_change on keys;
create trigger key_begins before insert on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on') execute function key_change();
create trigger key_change before update on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on' and not (
    (new.key_id, new.credential_id, new.version, new.verifier, new.created_at)
      is not distinct from (old.key_id, old.credential_id, old.version, old.verifier, old.created_at)
    and ((new.state, new.event, new.revision, new.not_before, new.expires_at, new.sunset_at, new.successor)
        is not distinct from (old.state, old.event, old.revision, old.not_before, old.expires_at, old.sunset_at, old.successor)
      or new.state = 'compromised' and old.state in ('pre-activation', 'active', 'suspended', 'deactivated')
        and new.revision = old.revision + 1)))
  execute function key_change();
-- Whoever notes that a key was published says when (registry/publishing.ts).
drop trigger key_published on keys;
drop function key_published;
-- The statements that select by scope say it themselves (registry/selectors.ts).
drop function scopes_touch;

-- Down Migration

create function scopes_touch(patterns text[], scopes text[]) returns boolean language sql immutable parallel safe as $$
  select exists (select from unnest(patterns) p, unnest(scopes) s where scope_covers(p, s) or scope_covers(s, p))
$$;
create function key_published() returns trigger language plpgsql as $$
begin
  new.published_at := clock_timestamp();
  return new;
end $$;
create trigger key_published before update of published_revision on keys for each row execute function key_published();
drop trigger key_begins on keys;
drop trigger key_change on keys;
create trigger key_change before insert or update on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on') execute function key_change();
