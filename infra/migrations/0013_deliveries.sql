-- Up Migration

-- A claim may name a key that its client has made for it. The secret is then encrypted to that, and the answer can be given again for
-- a while to whoever names the same key.
alter table claims
  -- RFC 7638, of the key that the secret was encrypted to. It stays: proof of to whom it went.
  add column recipient text check (recipient ~ '^[A-Za-z0-9_-]{43}$'),
  -- A compact JWE (RFC 7516) with a key agreed on: its second part is empty.
  add column jwe text check (jwe ~ '^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}$'),
  add column repeatable_until timestamptz,
  -- G5, G10: it stands there for who has claimed, in the place of the sealed secret (which a claim has while it is open, and only then).
  add constraint claims_jwe_for_whom check (jwe is null or state = 'used' and recipient is not null),
  add constraint claims_jwe_until check ((jwe is null) = (repeatable_until is null));
create index claims_repeatable on claims (repeatable_until) where jwe is not null;

-- Down Migration

drop index claims_repeatable;
alter table claims drop column repeatable_until, drop column jwe, drop column recipient;
