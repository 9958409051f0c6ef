-- Up Migration

-- Where a key was written, or is being written: whole deliveries, for that of its credential may be another by the time that it is to be
-- taken back there. Of one that was written before this column was there, nothing.
alter table claims add column places jsonb check (jsonb_typeof(places) = 'array' and places <> '[]');

-- Down Migration

alter table claims drop column places;
