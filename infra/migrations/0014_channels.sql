-- Up Migration

-- How a client is told: its contacts are in the order in which they are tried.
alter table clients
  add column language text not null default 'en' check (language ~ '^[a-z]{2}$'),
  add column time_zone text not null default 'UTC' check (char_length(time_zone) between 1 and 64),
  -- {from, to}: times of the day in the time zone, between which reminders wait.
  add column quiet_hours jsonb,
  add column tell text not null default 'first' check (tell in ('first', 'all'));
-- Who has given more than one contact was told on each until now.
update clients set tell = 'all' where jsonb_array_length(contacts) > 1;

-- Contacts that messages did not reach. A row goes when one does, or when the contacts are given anew.
create table contact_troubles (
  client_id text not null references clients,
  contact_id text not null check (contact_id ~ '^con_[0-9a-f]{16}$'),
  -- How many messages in a row were given up.
  failures integer not null check (failures >= 1),
  since timestamptz not null,
  why text not null check (char_length(why) between 1 and 500),
  -- Nothing is sent there any more.
  disabled_at timestamptz,
  primary key (client_id, contact_id)
);

-- What a client can read of itself (GET /v1/feed). Ids rise in the order in which one client's entries are committed.
create table client_events (
  event_id bigint generated always as identity primary key,
  client_id text not null references clients,
  -- A message that is told again by a retry is one event.
  message_id text not null unique,
  at timestamptz not null,
  type text not null,
  data jsonb not null
);
create index client_events_by_client on client_events (client_id, event_id);
create index client_events_by_time on client_events (at);

alter table rotations
  drop constraint rotations_held_for_check,
  add constraint rotations_held_for_check check (held_for in ('receipt', 'deadline', 'operator', 'failure', 'approval', 'untold'));

-- Down Migration

update rotations set held_for = 'operator' where held_for = 'untold';
alter table rotations
  drop constraint rotations_held_for_check,
  add constraint rotations_held_for_check check (held_for in ('receipt', 'deadline', 'operator', 'failure', 'approval'));
drop table client_events;
drop table contact_troubles;
alter table clients drop column tell, drop column quiet_hours, drop column time_zone, drop column language;
