-- Up Migration

-- How the secret of a new key reaches the client; nothing: handed out by a claim.
alter table credentials
  add column delivery jsonb,
  -- G5: of the client's key pair, the public half alone. Of a key that the client makes no secret travels.
  add constraint credentials_delivery check (delivery is null or coalesce(kind <> 'ed25519' and case delivery ->> 'method'
    when 'jwe' then delivery - '{method,recipient}'::text[] = '{}'
      and delivery #>> '{recipient,x}' ~ '^[A-Za-z0-9_-]{43}$' and delivery #>> '{recipient,y}' ~ '^[A-Za-z0-9_-]{43}$'
      and delivery -> 'recipient' = jsonb_build_object('kty', 'EC', 'crv', 'P-256',
        'x', delivery #> '{recipient,x}', 'y', delivery #> '{recipient,y}')
    when 'vault' then delivery - '{method,address,mount,path,role,authMount,namespace,field,audience}'::text[] = '{}'
    when 'aws-secrets-manager' then delivery - '{method,region,secretId,roleArn,endpoint,stsEndpoint,field,audience}'::text[] = '{}'
    end, false));

alter table claims
  -- Of a key that is written into the client's store: `due` until it is there; `given-up` when it could not be, so that it can be claimed.
  -- Nothing: it can be claimed.
  add column delivery text check (delivery in ('due', 'done', 'given-up')),
  -- G10: what was written has no sealed secret beside it any more.
  add constraint claims_delivered check (delivery is distinct from 'done' or state = 'used');

alter table rotations
  drop constraint rotations_held_for_check,
  add constraint rotations_held_for_check
    check (held_for in ('receipt', 'deadline', 'operator', 'failure', 'approval', 'untold', 'undelivered'));

-- Down Migration

update rotations set held_for = 'operator' where held_for = 'undelivered';
alter table rotations
  drop constraint rotations_held_for_check,
  add constraint rotations_held_for_check check (held_for in ('receipt', 'deadline', 'operator', 'failure', 'approval', 'untold'));
alter table claims drop column delivery;
alter table credentials drop column delivery;
