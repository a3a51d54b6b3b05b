-- Requests and answers that a route records (record_percent), to be answered anew by another route for comparison.
CREATE TABLE recorded_call (
    tenant text NOT NULL,
    request_id text NOT NULL,
    record_time timestamptz NOT NULL DEFAULT now(),
    -- The route taken, or the model named.
    scope text NOT NULL,
    -- Whose request it was: sealed under the subject's key, so that it is unreadable after an erasure.
    subject text NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX recorded_call_newest ON recorded_call (tenant, record_time DESC);
CREATE INDEX recorded_call_old ON recorded_call (record_time);
