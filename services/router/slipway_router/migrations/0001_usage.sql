-- One row for each model call, failed and refused ones included. Token classes are disjoint; the cost is exact.
CREATE TABLE model_usage (
    usage_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    request_id text NOT NULL,
    end_time timestamptz NOT NULL,
    operation text NOT NULL,
    subject text NOT NULL,
    act text,
    run_id text NOT NULL,
    task text NOT NULL,
    requested_model text NOT NULL,
    route text,
    catalogue_model text NOT NULL,
    returned_model text NOT NULL,
    provider text NOT NULL,
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    cached_input_tokens bigint NOT NULL CHECK (cached_input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens bigint NOT NULL CHECK (reasoning_tokens >= 0),
    cost_usd numeric NOT NULL CHECK (cost_usd >= 0),
    estimated boolean NOT NULL,
    -- How the call went: [{model, provider, outcome, status, latency_ms}], the answering attempt last.
    attempts jsonb NOT NULL,
    outcome text NOT NULL,
    latency_ms bigint NOT NULL,
    labels jsonb NOT NULL,
    -- The audit event that was committed with the row.
    event_id text NOT NULL
);
CREATE INDEX model_usage_newest ON model_usage (tenant, end_time DESC, usage_id DESC);
CREATE INDEX model_usage_request ON model_usage (tenant, request_id);
CREATE INDEX model_usage_run ON model_usage (tenant, run_id) WHERE run_id <> '';
