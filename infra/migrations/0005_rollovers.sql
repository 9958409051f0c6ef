-- Up Migration

-- Many credentials whose keys were killed together, and get new ones. Its keys die in the transaction that writes the row.
create table rollovers (
  rollover_id text primary key check (rollover_id ~ '^rol_[0-9A-Za-z]{16}$'),
  selector jsonb not null,
  -- A rollover of one credential, by `keyturn emergency <credential> --direct`.
  credential_id text references credentials,
  reason text not null check (char_length(reason) between 1 and 500),
  actor text not null,
  stage text not null default 'killing' check (stage in ('killing', 'issuing', 'paused', 'confirming', 'completed', 'cancelled')),
  killed integer not null,
  -- Per partition of the keys topic the offset that a gateway must have come to: all events of the killed keys lie below it.
  marks jsonb,
  gateways jsonb not null default '[]',
  unconfirmed text[] not null default '{}',
  confirmed_at timestamptz,
  opened_at timestamptz not null,
  ended_at timestamptz,
  check ((stage = 'completed') <= (ended_at is not null)),
  check (ended_at is null or stage in ('completed', 'cancelled'))
);
create index rollovers_by_time on rollovers (opened_at desc, rollover_id desc);
create index rollovers_under_way on rollovers (rollover_id) where ended_at is null;

create table rollover_members (
  -- Both exist, by the statement that writes the row; neither is ever deleted. Checking each of ten thousand would take longer than killing its key.
  rollover_id text not null,
  credential_id text not null,
  -- Another rollover was under way for this credential: its dead key and its new one are shared.
  joined boolean not null,
  -- The keys that this rollover has killed.
  key_ids text[] not null,
  -- The rotation that brings the new key.
  rotation_id text,
  started_at timestamptz,
  failure text,
  primary key (rollover_id, credential_id)
);
create index rollover_members_by_rotation on rollover_members (rotation_id) where rotation_id is not null;

-- The chain of the audit log, for statements that write many entries: the head is locked and read once before them, handed from
-- entry to entry within the statement, and written once after them. An update of the head for each entry would leave as many dead
-- versions of it, and each next one would have to look through them all.
-- The same text as before, in a language whose single expressions cost a third; what is in ASCII has as many bytes as characters.
create or replace function audit_text(a audit) returns text language plpgsql stable as $$
declare
  at_text text := to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  recorded_text text := to_char(a.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
  detail_text text := a.detail::text;
begin
  return length(a.seq::text) || ':' || a.seq || ',' || length(at_text) || ':' || at_text || ','
    || length(recorded_text) || ':' || recorded_text || ',' || octet_length(convert_to(a.actor, 'UTF8')) || ':' || a.actor || ','
    || octet_length(convert_to(a.action, 'UTF8')) || ':' || a.action || ','
    || octet_length(convert_to(a.subject, 'UTF8')) || ':' || a.subject || ','
    || coalesce(length(a.revision::text) || ':' || a.revision, '-') || ','
    || coalesce(octet_length(convert_to(a.rotation_id, 'UTF8')) || ':' || a.rotation_id, '-') || ','
    || octet_length(convert_to(detail_text, 'UTF8')) || ':' || detail_text || ',' || length(a.prev_hash) || ':' || a.prev_hash;
end $$;
create function audit_take_head() returns trigger language plpgsql as $$
declare head audit_head;
begin
  select * into head from audit_head for update;
  perform set_config('keyturn.audit_head', head.seq || ' ' || head.hash, true);
  return null;
end $$;
create or replace function audit_chain() returns trigger language plpgsql as $$
declare head text := current_setting('keyturn.audit_head');
begin
  new.seq := split_part(head, ' ', 1)::bigint + 1;
  new.prev_hash := split_part(head, ' ', 2);
  new.recorded_at := clock_timestamp();
  new.xact := pg_current_xact_id();
  new.hash := encode(sha256(convert_to(audit_text(new), 'UTF8')), 'hex');
  perform set_config('keyturn.audit_head', new.seq || ' ' || new.hash, true);
  return new;
end $$;
create function audit_give_head() returns trigger language plpgsql as $$
declare head text := current_setting('keyturn.audit_head');
begin
  update audit_head set seq = split_part(head, ' ', 1)::bigint, hash = split_part(head, ' ', 2);
  return null;
end $$;
create trigger audit_take_head before insert on audit for each statement execute function audit_take_head();
create trigger audit_give_head after insert on audit for each statement execute function audit_give_head();

-- What only says how a key was published, or which of its credential's keys it is, need not pass the check of a change.
drop trigger key_change on keys;
create trigger key_change before insert or update of key_id, credential_id, version, state, event, revision, verifier, not_before, expires_at,
  sunset_at, successor, created_at on keys for each row execute function key_change();

-- Down Migration

drop trigger key_change on keys;
create trigger key_change before insert or update on keys for each row execute function key_change();
drop trigger audit_give_head on audit;
drop trigger audit_take_head on audit;
create or replace function audit_chain() returns trigger language plpgsql as $$
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
drop function audit_give_head, audit_take_head;
create or replace function audit_text(a audit) returns text language sql stable as $$
  select string_agg(coalesce(octet_length(convert_to(f.text, 'UTF8')) || ':' || f.text, '-'), ',' order by f.place)
  from unnest(array[a.seq::text, to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    to_char(a.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.actor, a.action, a.subject, a.revision::text,
    a.rotation_id, a.detail::text, a.prev_hash]) with ordinality as f (text, place)
$$;
drop table rollover_members, rollovers;
