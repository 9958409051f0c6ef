-- Up Migration

-- When Kafka last had the state of a key: what a gateway lacks that has heard of nothing since some time.
alter table keys add column published_at timestamptz;
create function key_published() returns trigger language plpgsql as $$
begin
  new.published_at := clock_timestamp();
  return new;
end $$;
create trigger key_published before update of published_revision on keys for each row execute function key_published();
create index keys_ended on keys (published_at) where state in ('suspended', 'deactivated', 'compromised', 'destroyed');

-- How far each gateway has applied the ends of keys that it was told over the fallback: a place in the audit log, and since when.
create table fallback_polls (
  gateway_id text primary key,
  applied_through bigint not null,
  at timestamptz not null
);
create index receipts_unconfirmed on receipts (rotation_id) where unconfirmed <> '{}';

-- Which database was compared with the keys topic last. A registry that was restored from a backup, or a standby that took over, is
-- another one: by its own number, that of its table, or the start of its server. Until it is compared, nothing of it is published.
create table registry_check (
  singleton boolean primary key default true check (singleton),
  fingerprint text
);
insert into registry_check values (true, null);
create function registry_fingerprint() returns text language sql stable as $$
  select (select oid from pg_database where datname = current_database()) || '/' || 'keys'::regclass::oid || '/'
    || extract(epoch from pg_postmaster_start_time())
$$;

-- What was published after a backup is taken over as it is: revisions go on beyond those on the topic, states are reached in one step.
-- Compromised stays final (G9), and what identifies a key does not change.
create function key_recovery() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    return new;
  end if;
  if old.state = 'compromised' and new.state not in ('compromised', 'destroyed') then
    raise exception 'key % is compromised for ever', old.key_id using errcode = 'KT003';
  end if;
  if (new.key_id, new.credential_id, new.version, new.verifier, new.created_at)
     is distinct from (old.key_id, old.credential_id, old.version, old.verifier, old.created_at) then
    raise exception 'what identifies key % does not change', old.key_id using errcode = 'KT002';
  end if;
  if new.revision < old.revision then
    raise exception 'the revision of key % does not go back', old.key_id using errcode = 'KT004';
  end if;
  return new;
end $$;
drop trigger key_change on keys;
create trigger key_change before insert or update on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on') execute function key_change();
create trigger key_recovery before insert or update on keys for each row
  when (current_setting('keyturn.recovering', true) = 'on') execute function key_recovery();

-- Down Migration

drop trigger key_recovery on keys;
drop trigger key_change on keys;
create trigger key_change before insert or update on keys for each row execute function key_change();
drop function key_recovery;
drop function registry_fingerprint;
drop table registry_check;
drop index receipts_unconfirmed;
drop table fallback_polls;
drop index keys_ended;
drop trigger key_published on keys;
drop function key_published;
alter table keys drop column published_at;
