-- Up Migration

-- Requests with a right signature that were sent before, outside of their window or out of order: since ever, and of how many of them
-- people have been told.
create table replays (
  key_id text primary key references keys,
  replayed bigint not null default 0,
  stale bigint not null default 0,
  out_of_order bigint not null default 0,
  first_at timestamptz not null,
  last_at timestamptz not null,
  told_replayed bigint not null default 0,
  told_stale bigint not null default 0,
  told_out_of_order bigint not null default 0,
  told_at timestamptz
);
create index replays_untold on replays (key_id) where (replayed, stale, out_of_order) <> (told_replayed, told_stale, told_out_of_order);

-- Where they came from since people were last told.
create table replay_sources (
  key_id text not null references keys,
  address text not null,
  user_agent text not null,
  count bigint not null,
  primary key (key_id, address, user_agent)
);

-- What session tokens are signed with. The private half is sealed under the key-encryption key, and wiped when it signs no more;
-- the public half is published before it signs, and until the last token is dead.
create table signing_keys (
  kid text primary key check (kid ~ '^[0-9A-Za-z_-]{43}$'),
  public_key text not null check (public_key ~ '^[0-9A-Za-z_-]{43}$'),
  kek_id text,
  nonce bytea,
  ciphertext bytea,
  created_at timestamptz not null,
  signs_from timestamptz not null,
  -- Nothing: it has no successor yet.
  signs_until timestamptz,
  published_until timestamptz,
  check ((ciphertext is null) = (nonce is null) and (ciphertext is null) = (kek_id is null)),
  check ((signs_until is null) = (published_until is null) and signs_until >= signs_from and published_until >= signs_until)
);
create unique index signing_keys_last on signing_keys ((true)) where signs_until is null;

-- Down Migration

drop table signing_keys;
drop table replay_sources;
drop table replays;
