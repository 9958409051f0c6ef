-- Up Migration

-- When Kafka last had the state of a key: what a gateway lacks that has heard of nothing since some time.
alter table keys add column published_at timestamptz;
create function key_published() returns trigger language plpgsql as $$
begin
  new.published_at := clock_timestamp();
  return new;
end $$;
create trigger key_published before update of published_revision on keys for each row execute function key_published();
create index keys_ended on keys (published_at) where state in ('suspended', 'deactivated', 'compromised', 'destroyed');

-- How far each gateway has applied the ends of keys that it was told over the fallback: a place in the audit log, and since when.
create table fallback_polls (
  gateway_id text primary key,
  applied_through bigint not null,
  at timestamptz not null
);
create index receipts_unconfirmed on receipts (rotation_id) where unconfirmed <> '{}';

-- Down Migration

drop index receipts_unconfirmed;
drop table fallback_polls;
drop index keys_ended;
drop trigger key_published on keys;
drop function key_published;
alter table keys drop column published_at;
