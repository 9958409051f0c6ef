-- Up Migration

create table policies (
  name text primary key check (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  -- Of policies that are equally specific the first one wins.
  position integer not null,
  revision integer not null check (revision >= 1),
  -- As it was written: the contract's Policy.
  document jsonb not null check (document ->> 'name' = name),
  changed_at timestamptz not null,
  changed_by text not null,
  -- Too many rotations of a wave went wrong: nothing is started until a person says so.
  stopped_at timestamptz,
  stopped_reason text,
  -- Rotations that were opened before then are not counted any more.
  counted_from timestamptz not null,
  check ((stopped_at is null) = (stopped_reason is null))
);

-- Every version there ever was; one without a document is a removal.
create table policy_versions (
  name text not null,
  revision integer not null,
  document jsonb,
  at timestamptz not null,
  actor text not null,
  primary key (name, revision)
);
create trigger policy_versions_append_only before update or delete on policy_versions for each row execute function refuse();

alter table credentials
  -- The policy that wins of those that select it.
  add column policy text references policies,
  -- Where it stands on the wheel of its policy: 0 to 2^28, from its id alone.
  add column place integer not null generated always as (('x0' || left(md5(credential_id), 7))::bit(32)::integer) stored,
  -- When its current key was made: kept here so that one index tells who is due.
  add column current_since timestamptz;
-- Nothing of this is what gateways are told.
drop trigger credentials_no_change on credentials;
create trigger credentials_no_change before delete or update of credential_id, client_id, name, environment, scopes, labels, kind, created_at
  on credentials for each row execute function refuse();

update credentials c set current_since = k.created_at from keys k where k.credential_id = c.credential_id and k.standing = 'current';
create index credentials_by_policy on credentials (policy, place, current_since);
create function credential_current() returns trigger language plpgsql as $$
begin
  update credentials set current_since = new.created_at where credential_id = new.credential_id;
  return null;
end $$;
create trigger credential_current after insert or update of standing on keys for each row when (new.standing = 'current')
  execute function credential_current();

alter table rotations
  add column policy_name text,
  -- For those that a schedule has started: the turn of its wheel, and the wave.
  add column cycle integer,
  add column wave integer,
  add check ((cycle is null) = (wave is null) and (cycle is null or policy_name is not null)),
  drop constraint rotations_held_for_check,
  add constraint rotations_held_for_check check (held_for in ('receipt', 'deadline', 'operator', 'failure', 'approval'));
create index rotations_by_policy on rotations (policy_name, cycle, wave) where cycle is not null;
create index rotations_open_by_policy on rotations (policy_name) where cycle is not null and ended_at is null;
create index rotations_started_by_policy on rotations (policy_name, opened_at) where cycle is not null;

create index keys_expiring on keys (expires_at) where standing = 'current' and expires_at is not null;

-- What people have been told once.
create table key_warnings (
  key_id text primary key references keys,
  expires_at timestamptz not null,
  told_at timestamptz not null
);
create table retirement_proposals (
  credential_id text primary key references credentials,
  last_used_at timestamptz,
  proposed_at timestamptz not null
);
-- When what is done now and then was done last, so that of several workers one does it.
create table chores (
  name text primary key,
  done_at timestamptz not null
);

-- Down Migration

drop table chores, retirement_proposals, key_warnings;
alter table rotations drop constraint rotations_held_for_check,
  add constraint rotations_held_for_check check (held_for in ('receipt', 'deadline', 'operator', 'failure')),
  drop column policy_name, drop column cycle, drop column wave;
drop trigger credential_current on keys;
drop function credential_current;
drop trigger credentials_no_change on credentials;
create trigger credentials_no_change before update or delete on credentials for each row execute function refuse();
alter table credentials drop column policy, drop column place, drop column current_since;
drop table policy_versions, policies;
