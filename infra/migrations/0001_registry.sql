-- Up Migration

create table clients (
  client_id text primary key check (client_id ~ '^cli_[0-9A-Za-z]{16}$'),
  name text not null check (char_length(name) between 1 and 200),
  contacts jsonb not null default '[]',
  created_at timestamptz not null
);

create table credentials (
  credential_id text primary key check (credential_id ~ '^crd_[0-9A-Za-z]{16}$'),
  client_id text not null references clients,
  name text not null check (char_length(name) between 1 and 100),
  environment text not null check (environment in ('dev', 'test', 'prod')),
  scopes text[] not null,
  kind text not null default 'bearer' check (kind = 'bearer'),
  created_at timestamptz not null,
  unique (client_id, environment, name)
);

-- What may follow each key state: the contract's KEY_TRANSITIONS.
create table key_transitions (
  from_state text not null,
  to_state text not null,
  primary key (from_state, to_state)
);
insert into key_transitions values
  ('pre-activation', 'active'), ('pre-activation', 'suspended'), ('pre-activation', 'deactivated'),
  ('pre-activation', 'compromised'), ('pre-activation', 'destroyed'),
  ('active', 'suspended'), ('active', 'deactivated'), ('active', 'compromised'),
  ('suspended', 'active'), ('suspended', 'deactivated'), ('suspended', 'compromised'),
  ('deactivated', 'active'), ('deactivated', 'compromised'), ('deactivated', 'destroyed'),
  ('compromised', 'destroyed');

create table rotations (
  rotation_id text primary key check (rotation_id ~ '^rot_[0-9A-Za-z]{16}$'),
  credential_id text not null references credentials,
  client_id text not null references clients,
  trigger text not null check (trigger in ('manual', 'emergency')),
  reason text not null check (char_length(reason) between 1 and 500),
  stage text not null default 'requested' check (stage in ('requested', 'introducing', 'notifying', 'monitoring', 'held',
    'deactivating', 'rolling-back', 'completed', 'rolled-back')),
  policy jsonb not null,
  old_key_id text,
  new_key_id text,
  deadline timestamptz,
  held_for text check (held_for in ('receipt', 'deadline', 'operator', 'failure')),
  unconfirmed text[] not null default '{}',
  told text[] not null default '{}',
  old_refusals_base bigint not null default 0,
  opened_at timestamptz not null,
  ended_at timestamptz,
  check ((stage in ('completed', 'rolled-back')) = (ended_at is not null)),
  check (held_for is null or stage = 'held')
);
-- G6: one rotation at a time.
create unique index rotations_open on rotations (credential_id) where ended_at is null;
create index rotations_by_credential on rotations (credential_id, opened_at desc, rotation_id desc);
create index rotations_by_client on rotations (client_id, opened_at desc, rotation_id desc);
create index rotations_by_stage on rotations (stage, opened_at desc, rotation_id desc);
create index rotations_by_time on rotations (opened_at desc, rotation_id desc);

create table keys (
  key_id text primary key check (key_id ~ '^[0-9A-Za-z]{16}$'),
  credential_id text not null references credentials,
  -- unique with credential_id below: a version is never used twice
  version integer not null check (version >= 1),
  state text not null check (state in ('pre-activation', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed')),
  -- current: what the client holds; successor: what replaces it in a running rotation; retired: neither, and never again but by a roll-back.
  standing text not null check (standing in ('current', 'successor', 'retired')),
  revision bigint not null default 1 check (revision >= 1),
  event text not null check (event in ('keyturn.key.introduced', 'keyturn.key.deprecated', 'keyturn.key.deactivated',
    'keyturn.key.compromised', 'keyturn.key.suspended', 'keyturn.key.reinstated', 'keyturn.key.destroyed')),
  -- G5: the hash of the token, and nothing beside it.
  verifier jsonb not null check (verifier ->> 'kind' = 'bearer' and verifier ->> 'sha256' ~ '^[A-Za-z0-9+/]{43}=$'
    and verifier - 'kind' - 'sha256' = '{}'),
  verifier_sha256 text generated always as (verifier ->> 'sha256') stored,
  not_before timestamptz not null,
  expires_at timestamptz,
  sunset_at timestamptz,
  successor integer check (successor > version),
  rotation_id text references rotations,
  created_at timestamptz not null,
  published_revision bigint not null default 0,
  unique (credential_id, version),
  check (published_revision between 0 and revision),
  check ((sunset_at is null) = (successor is null)),
  check (standing = 'retired' or state in ('pre-activation', 'active', 'suspended'))
);
create unique index keys_current on keys (credential_id) where standing = 'current';
create unique index keys_successor on keys (credential_id) where standing = 'successor';
-- A rotation has one new key at a time; after an emergency in the middle of a roll-back it may issue another.
create unique index keys_of_rotation on keys (rotation_id) where standing <> 'retired';
create unique index keys_by_verifier on keys (verifier_sha256);
create index keys_unpublished on keys (key_id) where published_revision < revision;

alter table rotations
  add foreign key (old_key_id) references keys,
  add foreign key (new_key_id) references keys;

create table rotation_stages (
  rotation_id text not null references rotations,
  seq integer not null,
  stage text not null,
  at timestamptz not null,
  reason text,
  primary key (rotation_id, seq)
);

create table receipts (
  rotation_id text not null references rotations,
  key_id text not null references keys,
  revision bigint not null,
  event text not null,
  published_at timestamptz not null,
  gateways jsonb not null,
  unconfirmed text[] not null,
  primary key (rotation_id, key_id, revision)
);

create table claims (
  claim_id text primary key,
  key_id text not null references keys,
  -- SHA-256 of the claim code; the code itself is derived when it is needed.
  code_sha256 text not null unique,
  state text not null default 'open' check (state in ('open', 'used', 'expired', 'destroyed')),
  kek_id text,
  nonce bytea,
  ciphertext bytea,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  ended_at timestamptz,
  claimed_from text,
  -- G5, G10: what is not open any more holds no secret.
  check ((state = 'open') = (ciphertext is not null and nonce is not null and kek_id is not null)),
  check (state <> 'open' or ended_at is null)
);
create unique index claims_by_key on claims (key_id);
create index claims_open on claims (expires_at) where state = 'open';

create table key_usage (
  key_id text primary key references keys,
  first_accepted_at timestamptz,
  last_accepted_at timestamptz,
  accepted bigint not null default 0,
  refused bigint not null default 0,
  refused_upstream bigint not null default 0,
  wrong_environment bigint not null default 0,
  undecided bigint not null default 0
);

create table key_sources (
  key_id text not null references keys,
  address text not null,
  user_agent text not null,
  count bigint not null,
  last_at timestamptz not null,
  primary key (key_id, address, user_agent)
);
create index key_sources_latest on key_sources (key_id, last_at desc);

create table usage_offsets (
  partition integer primary key,
  next_offset bigint not null
);

create table usage_state (
  singleton boolean primary key default true check (singleton),
  complete_through timestamptz,
  silent_gateways text[] not null default '{}'
);
insert into usage_state default values;

create table audit (
  seq bigint primary key,
  at timestamptz not null,
  recorded_at timestamptz not null default now(),
  actor text not null,
  action text not null,
  subject text not null,
  revision bigint,
  rotation_id text,
  detail jsonb not null,
  -- The transaction that wrote it, so that a change can not pass for audited by an entry of another time.
  xact xid8 not null default pg_current_xact_id(),
  prev_hash text not null,
  hash text not null
);
create index audit_by_subject on audit (subject, seq);
create unique index audit_once on audit (subject, revision) where revision is not null;
create index audit_by_rotation on audit (rotation_id, seq) where rotation_id is not null;

create table audit_head (
  singleton boolean primary key default true check (singleton),
  seq bigint not null,
  hash text not null
);
insert into audit_head values (true, 0, repeat('0', 64));

-- G7: each entry holds the hash of the one before it. The head row is locked, so that the chain is total.
-- What is hashed: each field as text behind its length in bytes, `-` where there is none. registry/audit.ts does the same by itself.
create function audit_text(a audit) returns text language sql stable as $$
  select string_agg(coalesce(octet_length(convert_to(f.text, 'UTF8')) || ':' || f.text, '-'), ',' order by f.place)
  from unnest(array[a.seq::text, to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    to_char(a.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.actor, a.action, a.subject, a.revision::text,
    a.rotation_id, a.detail::text, a.prev_hash]) with ordinality as f (text, place)
$$;
create function audit_chain() returns trigger language plpgsql as $$
declare head audit_head;
begin
  select * into head from audit_head for update;
  new.seq := head.seq + 1;
  new.prev_hash := head.hash;
  new.recorded_at := clock_timestamp();
  new.xact := pg_current_xact_id();
  new.hash := encode(sha256(convert_to(audit_text(new), 'UTF8')), 'hex');
  update audit_head set seq = new.seq, hash = new.hash;
  return new;
end $$;
create trigger audit_chain before insert on audit for each row execute function audit_chain();

create function refuse() returns trigger language plpgsql as $$
begin
  raise exception '% of % is not allowed', lower(tg_op), tg_table_name using errcode = 'KT001';
end $$;
create trigger audit_append_only before update or delete on audit for each row execute function refuse();
create trigger audit_no_truncate before truncate on audit for each statement execute function refuse();
create trigger keys_no_delete before delete on keys for each row execute function refuse();
create trigger keys_no_truncate before truncate on keys for each statement execute function refuse();
-- Name, environment and scopes are part of what gateways are told of a key: they don't change behind its revision.
create trigger credentials_no_change before update or delete on credentials for each row execute function refuse();

-- Legal changes of a key. What only says how it was published, or which of a credential's keys it is, is no change of the key.
create function key_change() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    if new.revision <> 1 then
      raise exception 'key % begins with revision 1, not %', new.key_id, new.revision using errcode = 'KT004';
    end if;
    if new.state not in ('pre-activation', 'active') then
      raise exception 'key % can not begin as %', new.key_id, new.state using errcode = 'KT003';
    end if;
    return new;
  end if;
  -- G9, whatever the table of transitions says.
  if old.state = 'compromised' and new.state not in ('compromised', 'destroyed') then
    raise exception 'key % is compromised for ever', old.key_id using errcode = 'KT003';
  end if;
  if (new.key_id, new.credential_id, new.version, new.verifier, new.created_at)
     is distinct from (old.key_id, old.credential_id, old.version, old.verifier, old.created_at) then
    raise exception 'what identifies key % does not change', old.key_id using errcode = 'KT002';
  end if;
  if new.state <> old.state and not exists (select from key_transitions where from_state = old.state and to_state = new.state) then
    raise exception 'key % can not go from % to %', old.key_id, old.state, new.state using errcode = 'KT003';
  end if;
  if (new.state, new.event, new.not_before, new.expires_at, new.sunset_at, new.successor)
     is distinct from (old.state, old.event, old.not_before, old.expires_at, old.sunset_at, old.successor) then
    if new.revision <> old.revision + 1 then
      raise exception 'a change of key % takes its revision from % to %', old.key_id, old.revision, old.revision + 1 using errcode = 'KT004';
    end if;
  elsif new.revision <> old.revision then
    raise exception 'the revision of key % changes with the key alone', old.key_id using errcode = 'KT004';
  end if;
  return new;
end $$;
create trigger key_change before insert or update on keys for each row execute function key_change();

-- Every change of a key has its audit entry in the same transaction.
create function key_audited() returns trigger language plpgsql as $$
begin
  if not exists (select from audit where subject = new.key_id and revision = new.revision and xact = pg_current_xact_id()) then
    raise exception 'no audit entry for revision % of key %', new.revision, new.key_id using errcode = 'KT005';
  end if;
  return null;
end $$;
create constraint trigger key_audited after insert or update of revision on keys deferrable initially deferred
  for each row execute function key_audited();

-- A rotation that has ended stays ended.
create function rotation_ended() returns trigger language plpgsql as $$
begin
  raise exception 'rotation % has ended: %', old.rotation_id, old.stage using errcode = 'KT006';
end $$;
create trigger rotation_ended before update of stage, ended_at, old_key_id, new_key_id on rotations for each row
  when (old.ended_at is not null and (new.stage, new.ended_at, new.old_key_id, new.new_key_id)
    is distinct from (old.stage, old.ended_at, old.old_key_id, old.new_key_id))
  execute function rotation_ended();
create trigger rotations_no_delete before delete on rotations for each row execute function refuse();

-- What is known of the use of both keys of a rotation, and whether it suffices to deactivate the old one (G2).
create view rotation_evidence as
select r.rotation_id, r.credential_id, r.stage, r.told, r.policy, r.opened_at, r.ended_at, r.old_key_id, r.new_key_id,
  s.complete_through, s.silent_gateways,
  ou.last_accepted_at as old_last_used_at,
  nu.first_accepted_at as new_first_used_at,
  nu.last_accepted_at as new_last_used_at,
  coalesce(nu.refused, 0) + coalesce(nu.refused_upstream, 0) as new_refusals,
  greatest(0, coalesce(ou.refused, 0) - r.old_refusals_base) as old_refusals,
  coalesce(
    nu.first_accepted_at is not null
    and s.complete_through - greatest(coalesce(ou.last_accepted_at, o.not_before), o.not_before)
        >= (r.policy ->> 'quietPeriodMs')::bigint * interval '1 millisecond',
    false) as sufficient
from rotations r
cross join usage_state s
left join keys o on o.key_id = r.old_key_id
left join key_usage ou on ou.key_id = r.old_key_id
left join key_usage nu on nu.key_id = r.new_key_id;

-- Down Migration

drop view rotation_evidence;
drop table usage_state, usage_offsets, key_sources, key_usage, claims, receipts, rotation_stages, audit, audit_head cascade;
drop table keys, rotations, key_transitions, credentials, clients cascade;
drop function audit_chain, refuse, key_change, key_audited, rotation_ended;
