-- Up Migration

-- GitGuardian's own hash of the token (registry/hmsl.ts): its webhook tells a leak by that alone. Absent where the token was never here.
alter table keys add column hmsl_hash text check (hmsl_hash ~ '^[0-9a-f]{64}$');
create unique index keys_by_hmsl on keys (hmsl_hash);

create table leaks (
  leak_id text primary key check (leak_id ~ '^leak_[0-9A-Za-z]{16}$'),
  -- One incident for each token, by its hash and never by itself (G5). `hmsl:` where GitGuardian tells of a token that is none of ours.
  token_hash text not null unique check (token_hash ~ '^(sha256|hmsl):[0-9a-f]{64}$'),
  matched text not null check (matched in ('live', 'old', 'dead', 'unknown')),
  key_id text references keys,
  status text not null check (status in ('open', 'responding', 'closed')),
  -- Decided when the response begins.
  response text check (response in ('at-once', 'overlap', 'none')),
  overlap_ms bigint check (overlap_ms >= 0),
  rotation_id text references rotations,
  reported_at timestamptz not null,
  -- When the key was made compromised because of this leak, and who has applied that.
  contained_at timestamptz,
  receipt jsonb,
  -- The key's use as it was known at the report and at the end.
  usage_before jsonb,
  usage_after jsonb,
  closed_at timestamptz,
  check ((matched = 'unknown') = (key_id is null)),
  check ((status = 'closed') = (closed_at is not null)),
  check ((response = 'overlap') = (overlap_ms is not null))
);
create index leaks_by_key on leaks (key_id) where key_id is not null;
create index leaks_by_rotation on leaks (rotation_id) where rotation_id is not null;
create index leaks_open on leaks (reported_at) where status = 'open';
create index leaks_by_time on leaks (reported_at desc, leak_id desc);

-- Who has found the token, and where: the same report twice is one row, counted.
create table leak_sightings (
  leak_id text not null references leaks,
  source text not null check (char_length(source) between 1 and 100),
  url text not null default '' check (char_length(url) <= 2000),
  place text not null generated always as (md5(source || chr(10) || url)) stored,
  reporter text not null,
  found_at timestamptz,
  first_at timestamptz not null,
  last_at timestamptz not null,
  times integer not null default 1,
  primary key (leak_id, place)
);

create trigger leaks_no_delete before delete on leaks for each row execute function refuse();

-- Down Migration

drop table leak_sightings, leaks;
alter table keys drop column hmsl_hash;
