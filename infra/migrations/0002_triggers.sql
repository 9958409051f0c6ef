-- Up Migration

alter table rotations drop constraint rotations_trigger_check,
  add constraint rotations_trigger_check check (trigger in ('manual', 'schedule', 'leak', 'emergency'));

-- The provider's own words for a credential; the selectors of policies and rollovers know them.
alter table credentials add column labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object');
create index credentials_by_label on credentials using gin (labels jsonb_path_ops);

-- The contract's scopeCovers and scopesTouch (contract/src/scope.ts); a test compares them.
create function scope_covers(pattern text, scope text) returns boolean language sql immutable parallel safe as $$
  select pattern = '*' or pattern = scope
    or (right(pattern, 2) = ':*' and (scope = left(pattern, -2) or starts_with(scope, left(pattern, -1))))
$$;
create function scopes_touch(patterns text[], scopes text[]) returns boolean language sql immutable parallel safe as $$
  select exists (select from unnest(patterns) p, unnest(scopes) s where scope_covers(p, s) or scope_covers(s, p))
$$;

-- Down Migration

drop function scopes_touch, scope_covers;
drop index credentials_by_label;
alter table credentials drop column labels;
alter table rotations drop constraint rotations_trigger_check,
  add constraint rotations_trigger_check check (trigger in ('manual', 'emergency'));
