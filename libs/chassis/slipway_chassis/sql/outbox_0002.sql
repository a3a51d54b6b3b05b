-- Messages that must not be lost with the broker's queues stay until their consumer says that it has them.
ALTER TABLE outbox ADD COLUMN receipt boolean NOT NULL DEFAULT false;
-- When the bus confirmed it; NULL: it waits to be published.
ALTER TABLE outbox ADD COLUMN published_time timestamptz;
CREATE INDEX outbox_waiting ON outbox (id) WHERE published_time IS NULL;
