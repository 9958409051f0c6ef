-- Up Migration

alter table credentials
  -- From where, and with which methods, its keys may be used: the contract's Allow.
  add column allow jsonb check (jsonb_typeof(allow) = 'object'),
  -- Counts the changes of its scopes and of the above.
  add column permissions integer not null default 1;
alter table keys
  -- Which of these its revision tells.
  add column permissions integer not null default 1,
  -- When its sunset was first announced (RFC 9745).
  add column deprecated_at timestamptz,
  drop constraint keys_event_check,
  add constraint keys_event_check check (event in ('keyturn.key.introduced', 'keyturn.key.deprecated', 'keyturn.key.deactivated',
    'keyturn.key.compromised', 'keyturn.key.suspended', 'keyturn.key.reinstated', 'keyturn.key.updated', 'keyturn.key.destroyed'));

-- Scopes and allow are part of what gateways are told of a key: they change with the next revision of every key, in one transaction.
drop trigger credentials_no_change on credentials;
create trigger credentials_no_change before delete or update of credential_id, client_id, name, environment, labels, kind, created_at
  on credentials for each row execute function refuse();
create function credential_permissions() returns trigger language plpgsql as $$
begin
  if new.permissions <> old.permissions + 1 then
    raise exception 'the permissions of % change with their count', old.credential_id using errcode = 'KT001';
  end if;
  if exists (select from keys where credential_id = new.credential_id and state <> 'destroyed' and permissions < new.permissions) then
    raise exception 'a key of % does not tell of its permissions', new.credential_id using errcode = 'KT001';
  end if;
  return null;
end $$;
create constraint trigger credential_permissions after update of scopes, allow, permissions on credentials deferrable initially deferred
  for each row execute function credential_permissions();

create or replace function key_change() returns trigger language plpgsql as $$
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
  if (new.state, new.event, new.not_before, new.expires_at, new.sunset_at, new.successor, new.deprecated_at, new.permissions)
     is distinct from (old.state, old.event, old.not_before, old.expires_at, old.sunset_at, old.successor, old.deprecated_at, old.permissions) then
    if new.revision <> old.revision + 1 then
      raise exception 'a change of key % takes its revision from % to %', old.key_id, old.revision, old.revision + 1 using errcode = 'KT004';
    end if;
  elsif new.revision <> old.revision then
    raise exception 'the revision of key % changes with the key alone', old.key_id using errcode = 'KT004';
  end if;
  return new;
end $$;
-- As before, with what has been added: a change of it takes a revision, too.
drop trigger key_change on keys;
create trigger key_change before update on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on' and not (
    (new.key_id, new.credential_id, new.version, new.verifier, new.created_at)
      is not distinct from (old.key_id, old.credential_id, old.version, old.verifier, old.created_at)
    and ((new.state, new.event, new.revision, new.not_before, new.expires_at, new.sunset_at, new.successor, new.deprecated_at, new.permissions)
        is not distinct from (old.state, old.event, old.revision, old.not_before, old.expires_at, old.sunset_at, old.successor, old.deprecated_at, old.permissions)
      or new.state = 'compromised' and old.state in ('pre-activation', 'active', 'suspended', 'deactivated')
        and new.revision = old.revision + 1)))
  execute function key_change();

-- Down Migration

create or replace function key_change() returns trigger language plpgsql as $$
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
drop trigger key_change on keys;
create trigger key_change before update on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on' and not (
    (new.key_id, new.credential_id, new.version, new.verifier, new.created_at)
      is not distinct from (old.key_id, old.credential_id, old.version, old.verifier, old.created_at)
    and ((new.state, new.event, new.revision, new.not_before, new.expires_at, new.sunset_at, new.successor)
        is not distinct from (old.state, old.event, old.revision, old.not_before, old.expires_at, old.sunset_at, old.successor)
      or new.state = 'compromised' and old.state in ('pre-activation', 'active', 'suspended', 'deactivated')
        and new.revision = old.revision + 1)))
  execute function key_change();
drop trigger credential_permissions on credentials;
drop function credential_permissions;
drop trigger credentials_no_change on credentials;
create trigger credentials_no_change before delete or update of credential_id, client_id, name, environment, scopes, labels, kind, created_at
  on credentials for each row execute function refuse();
-- Gateways have these keys under this name; the word alone can not be kept.
alter table keys disable trigger user;
update keys set event = 'keyturn.key.introduced' where event = 'keyturn.key.updated';
alter table keys enable trigger user;
alter table keys
  drop constraint keys_event_check,
  add constraint keys_event_check check (event in ('keyturn.key.introduced', 'keyturn.key.deprecated', 'keyturn.key.deactivated',
    'keyturn.key.compromised', 'keyturn.key.suspended', 'keyturn.key.reinstated', 'keyturn.key.destroyed')),
  drop column deprecated_at,
  drop column permissions;
alter table credentials drop column permissions, drop column allow;
