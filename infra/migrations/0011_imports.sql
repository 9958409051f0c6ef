-- Up Migration

-- An import names clients by their names; they need not be unique.
create index clients_by_name on clients (name);

-- Down Migration

drop index clients_by_name;
