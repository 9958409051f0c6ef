-- Up Migration

-- Up to which report of a gateway's incarnation a partition has been counted: one that is sent again counts once.
create table usage_serials (
  gateway_id text not null,
  incarnation text not null,
  partition integer not null,
  serial bigint not null,
  counted_at timestamptz not null default now(),
  primary key (gateway_id, incarnation, partition)
);

-- What people have been alerted to in a rotation, so that they hear of it once.
alter table rotations add column alerted text[] not null default '{}';

-- Up to when use may be unknown for good: a gateway ended then with counts that it had reported to nobody.
alter table usage_state add column lost_at timestamptz;

create or replace view rotation_evidence as
select r.rotation_id, r.credential_id, r.stage, r.told, r.policy, r.opened_at, r.ended_at, r.old_key_id, r.new_key_id,
  s.complete_through, s.silent_gateways,
  ou.last_accepted_at as old_last_used_at,
  case when w.works then nu.first_accepted_at end as new_first_used_at,
  nu.last_accepted_at as new_last_used_at,
  coalesce(nu.refused, 0) + coalesce(nu.refused_upstream, 0) as new_refusals,
  greatest(0, coalesce(ou.refused, 0) - r.old_refusals_base) as old_refusals,
  coalesce(
    w.works
    and s.complete_through - q.quiet_since >= q.quiet_period,
    false) as sufficient,
  s.lost_at, q.quiet_since, q.quiet_period, r.deadline, r.alerted
from rotations r
cross join usage_state s
left join keys o on o.key_id = r.old_key_id
left join key_usage ou on ou.key_id = r.old_key_id
left join key_usage nu on nu.key_id = r.new_key_id
-- A key that gateways accept and the API behind them always refuses is of no use to its client.
cross join lateral (select nu.accepted > nu.refused_upstream as works) w
-- The latest time at which the old key was used, or may have been.
cross join lateral (select
  greatest(coalesce(ou.last_accepted_at, o.not_before), o.not_before, s.lost_at) as quiet_since,
  (r.policy ->> 'quietPeriodMs')::bigint * interval '1 millisecond' as quiet_period) q;

-- Down Migration

drop view rotation_evidence;
create view rotation_evidence as
select r.rotation_id, r.credential_id, r.stage, r.told, r.policy, r.opened_at, r.ended_at, r.old_key_id, r.new_key_id,
  s.complete_through, s.silent_gateways,
  ou.last_accepted_at as old_last_used_at,
  nu.first_accepted_at as new_first_used_at,
  nu.last_accepted_at as new_last_used_at,
  coalesce(nu.refused, 0) + coalesce(nu.refused_upstream, 0) as new_refusals,
  greatest(0, coalesce(ou.refused, 0) - r.old_refusals_base) as old_refusals,
  coalesce(
    nu.first_accepted_at is not null
    and s.complete_through - greatest(coalesce(ou.last_accepted_at, o.not_before), o.not_before)
        >= (r.policy ->> 'quietPeriodMs')::bigint * interval '1 millisecond',
    false) as sufficient
from rotations r
cross join usage_state s
left join keys o on o.key_id = r.old_key_id
left join key_usage ou on ou.key_id = r.old_key_id
left join key_usage nu on nu.key_id = r.new_key_id;
alter table usage_state drop column lost_at;
alter table rotations drop column alerted;
drop table usage_serials;
