-- Up Migration

-- An import names clients by their names; they need not be unique.
create index clients_by_name on clients (name);
-- It writes the credential with its key's age: then there is nothing to bring up to date behind each of its keys.
create or replace function credential_current() returns trigger language plpgsql as $$
begin
  update credentials set current_since = new.created_at
  where credential_id = new.credential_id and current_since is distinct from new.created_at;
  return null;
end $$;

-- Codes that a claim had under key-encryption keys that have been replaced since: a client may have been sent one of them.
alter table claims add column former_codes text[] not null default '{}';
create index claims_by_former_code on claims using gin (former_codes);
create index claims_by_kek on claims (kek_id) where state = 'open';

-- Down Migration

drop index claims_by_kek;
drop index claims_by_former_code;
alter table claims drop column former_codes;
create or replace function credential_current() returns trigger language plpgsql as $$
begin
  update credentials set current_since = new.created_at where credential_id = new.credential_id;
  return null;
end $$;
drop index clients_by_name;
