-- Up Migration

-- A claim may name a key that its client has made for it. The secret is then encrypted to that, and the answer can be given again for
-- a while to whoever names the same key.
alter table claims
  -- RFC 7638, of the key that the secret was encrypted to. It stays: proof of to whom it went.
  add column recipient text check (recipient ~ '^[A-Za-z0-9_-]{43}$'),
  -- A compact JWE (RFC 7516) with a key agreed on: its second part is empty.
  add column jwe text check (jwe ~ '^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}$'),
  add column repeatable_until timestamptz,
  -- When somebody else than who has the secret first tried the claim: one of both is not the client.
  add column disputed_at timestamptz,
  -- G5, G10: it stands there for who has claimed, in the place of the sealed secret (which a claim has while it is open, and only then).
  add constraint claims_jwe_for_whom check (jwe is null or state = 'used' and recipient is not null),
  add constraint claims_jwe_until check ((jwe is null) = (repeatable_until is null));
create index claims_repeatable on claims (repeatable_until) where jwe is not null;

-- Nonces of requests that clients have signed for the control plane itself, until such a request would be stale.
create table signed_requests (
  key_id text not null references keys,
  nonce text not null check (char_length(nonce) between 1 and 128),
  forget_at timestamptz not null,
  primary key (key_id, nonce)
);
create index signed_requests_over on signed_requests (forget_at);

-- When each source was first seen with a key: how the client's programs switch over.
alter table key_sources add column first_at timestamptz;
update key_sources set first_at = last_at;
alter table key_sources alter column first_at set not null;

-- The client's word, with its new key, that it does not use the old one any more (G2: docs/adr/0022).
alter table rotations
  add column done_at timestamptz,
  add column done_key_id text references keys,
  add constraint rotations_done_by check ((done_at is null) = (done_key_id is null));

-- Whoever has used the old key of a rotation after the new one was first used, and has not been seen with the new one since; `unknown`
-- where the latest use was somebody's of whom nothing is known.
create function rotation_stragglers(old_key text, new_key text) returns table (address text, user_agent text, count bigint, last_at timestamptz)
language sql stable as $$
  select o.address, o.user_agent, o.count, o.last_at
  from key_usage nu join key_sources o on o.key_id = old_key
  where nu.key_id = new_key and o.last_at >= nu.first_accepted_at and not exists (
    select from key_sources n
    where n.key_id = new_key and n.address = o.address and n.user_agent = o.user_agent and n.last_at > o.last_at)
  union all
  select 'unknown', '', 1, ou.last_accepted_at
  from key_usage nu join key_usage ou on ou.key_id = old_key
  where nu.key_id = new_key and ou.last_accepted_at >= nu.first_accepted_at
    and not exists (select from key_sources o where o.key_id = old_key and o.last_at >= ou.last_accepted_at)
$$;
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
    and s.complete_through - q.quiet_since >= case when d.said then least(q.quiet_period, d.settled) else q.quiet_period end
    and (s.complete_through - q.quiet_since >= q.quiet_period or not exists (select from rotation_stragglers(r.old_key_id, r.new_key_id))),
    false) as sufficient,
  s.lost_at, q.quiet_since, q.quiet_period, r.deadline, r.alerted,
  case when d.said then r.done_at end as done_at
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
  (r.policy ->> 'quietPeriodMs')::bigint * interval '1 millisecond' as quiet_period) q
-- The client's word, as long as nothing that is known speaks against it: use of the old key after it makes it void. How long it takes
-- until it is believed: as long as the client took to switch over, for somebody who still uses the old key will have been seen by then.
cross join lateral (select
  coalesce(r.done_key_id = r.new_key_id and s.complete_through >= r.done_at and q.quiet_since <= r.done_at, false) as said,
  greatest(interval '10 seconds', q.quiet_since - nu.first_accepted_at) as settled) d;

-- Down Migration

drop view rotation_evidence;
create view rotation_evidence as
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
drop function rotation_stragglers;
alter table rotations drop column done_key_id, drop column done_at;
alter table key_sources drop column first_at;
drop table signed_requests;
drop index claims_repeatable;
alter table claims drop column disputed_at, drop column repeatable_until, drop column jwe, drop column recipient;
