-- Up Migration

-- Keys that sign requests: `hmac-sha256` and `ed25519`.
alter table credentials
  drop constraint credentials_kind_check,
  add constraint credentials_kind_check check (kind in ('bearer', 'hmac-sha256', 'ed25519'));
alter table keys
  -- A column, so that the planner knows how few have one.
  add column kek_id text generated always as (verifier ->> 'kekId') stored,
  -- Of an hmac-sha256 token, for leak reports alone: it is in no verifier, and nothing that looks for a shown token looks here.
  add column token_sha256 text,
  add constraint keys_token_sha256_check
    check (token_sha256 is null or (token_sha256 ~ '^[A-Za-z0-9+/]{43}=$' and verifier ->> 'kind' = 'hmac-sha256')),
  drop constraint keys_verifier_check,
  -- G5: the hash of the token, the token sealed, or the public half of a pair; and nothing beside it.
  add constraint keys_verifier_check check (coalesce(case verifier ->> 'kind'
    when 'bearer' then jsonb_typeof(verifier -> 'sha256') = 'string' and verifier ->> 'sha256' ~ '^[A-Za-z0-9+/]{43}=$'
      and verifier - '{kind,sha256}'::text[] = '{}'
    when 'hmac-sha256' then jsonb_typeof(verifier -> 'kekId') = 'string' and verifier ->> 'kekId' ~ '^[0-9a-f]{8}$'
      and jsonb_typeof(verifier -> 'nonce') = 'string' and verifier ->> 'nonce' ~ '^[A-Za-z0-9+/]{16}$'
      and jsonb_typeof(verifier -> 'ciphertext') = 'string' and verifier ->> 'ciphertext' ~ '^[A-Za-z0-9+/]+={0,2}$'
      and char_length(verifier ->> 'ciphertext') between 24 and 1024
      and jsonb_typeof(verifier -> 'revision') = 'number' and verifier ->> 'revision' ~ '^[1-9][0-9]{0,15}$'
      and (verifier ->> 'revision')::bigint <= revision
      and verifier - '{kind,kekId,nonce,ciphertext,revision}'::text[] = '{}'
    when 'ed25519' then verifier = '{"kind": "ed25519"}' and state <> 'active'
      or jsonb_typeof(verifier -> 'publicKey') = 'string' and verifier ->> 'publicKey' ~ '^[A-Za-z0-9+/]{43}=$'
      and verifier - '{kind,publicKey}'::text[] = '{}'
    end, false));
create unique index keys_by_token on keys (token_sha256) where token_sha256 is not null;
-- A public key is of one key, for ever.
create unique index keys_by_public_key on keys ((verifier ->> 'publicKey')) where verifier ->> 'publicKey' is not null;
-- What `keyturn reseal` moves: those that are compromised or destroyed nobody opens any more.
create index keys_by_kek on keys (kek_id) where kek_id is not null and state not in ('compromised', 'destroyed');

-- A verifier changes in two ways alone.
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
  if (new.key_id, new.credential_id, new.version, new.token_sha256, new.created_at)
     is distinct from (old.key_id, old.credential_id, old.version, old.token_sha256, old.created_at) then
    raise exception 'what identifies key % does not change', old.key_id using errcode = 'KT002';
  end if;
  if new.verifier <> old.verifier and not (
    -- The client enrols its public key, which makes the key accepted.
    old.verifier = '{"kind": "ed25519"}' and new.verifier ->> 'kind' = 'ed25519' and old.state = 'pre-activation' and new.state = 'active'
    -- The token is sealed anew, and the verifier says of which revision it is.
    or old.verifier ->> 'kind' = 'hmac-sha256' and new.verifier ->> 'kind' = 'hmac-sha256' and new.state = old.state
      and (new.verifier ->> 'revision')::bigint = new.revision) then
    raise exception 'what identifies key % does not change', old.key_id using errcode = 'KT002';
  end if;
  if new.state <> old.state and not exists (select from key_transitions where from_state = old.state and to_state = new.state) then
    raise exception 'key % can not go from % to %', old.key_id, old.state, new.state using errcode = 'KT003';
  end if;
  if (new.state, new.event, new.not_before, new.expires_at, new.sunset_at, new.successor, new.deprecated_at, new.permissions, new.verifier)
     is distinct from (old.state, old.event, old.not_before, old.expires_at, old.sunset_at, old.successor, old.deprecated_at, old.permissions,
       old.verifier) then
    if new.revision <> old.revision + 1 then
      raise exception 'a change of key % takes its revision from % to %', old.key_id, old.revision, old.revision + 1 using errcode = 'KT004';
    end if;
  elsif new.revision <> old.revision then
    raise exception 'the revision of key % changes with the key alone', old.key_id using errcode = 'KT004';
  end if;
  return new;
end $$;
-- As before, with what has been added.
drop trigger key_change on keys;
create trigger key_change before update on keys for each row
  when (current_setting('keyturn.recovering', true) is distinct from 'on' and not (
    (new.key_id, new.credential_id, new.version, new.verifier, new.token_sha256, new.created_at)
      is not distinct from (old.key_id, old.credential_id, old.version, old.verifier, old.token_sha256, old.created_at)
    and ((new.state, new.event, new.revision, new.not_before, new.expires_at, new.sunset_at, new.successor, new.deprecated_at, new.permissions)
        is not distinct from (old.state, old.event, old.revision, old.not_before, old.expires_at, old.sunset_at, old.successor, old.deprecated_at, old.permissions)
      or new.state = 'compromised' and old.state in ('pre-activation', 'active', 'suspended', 'deactivated')
        and new.revision = old.revision + 1)))
  execute function key_change();
-- What was enrolled or sealed after a backup is taken over, too.
create or replace function key_recovery() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    return new;
  end if;
  if old.state = 'compromised' and new.state not in ('compromised', 'destroyed') then
    raise exception 'key % is compromised for ever', old.key_id using errcode = 'KT003';
  end if;
  if (new.key_id, new.credential_id, new.version, new.token_sha256, new.created_at)
     is distinct from (old.key_id, old.credential_id, old.version, old.token_sha256, old.created_at)
     or new.verifier <> old.verifier and not (
       old.verifier = '{"kind": "ed25519"}' and new.verifier ->> 'kind' = 'ed25519'
       or old.verifier ->> 'kind' = 'hmac-sha256' and new.verifier ->> 'kind' = 'hmac-sha256') then
    raise exception 'what identifies key % does not change', old.key_id using errcode = 'KT002';
  end if;
  if new.revision < old.revision then
    raise exception 'the revision of key % does not go back', old.key_id using errcode = 'KT004';
  end if;
  return new;
end $$;

-- Down Migration

-- Nothing that went before can hold them: whoever goes back has no such keys.
create or replace function key_recovery() returns trigger language plpgsql as $$
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
drop index keys_by_kek;
drop index keys_by_public_key;
drop index keys_by_token;
alter table keys
  drop column token_sha256,
  drop column kek_id,
  drop constraint keys_verifier_check,
  add constraint keys_verifier_check check (verifier ->> 'kind' = 'bearer' and verifier ->> 'sha256' ~ '^[A-Za-z0-9+/]{43}=$'
    and verifier - 'kind' - 'sha256' = '{}');
alter table credentials
  drop constraint credentials_kind_check,
  add constraint credentials_kind_check check (kind = 'bearer');
