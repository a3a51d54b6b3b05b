-- Runs, their journals, what people and clocks tell them, and their approvals.
CREATE TABLE run (
    run_id text PRIMARY KEY,
    tenant text NOT NULL,
    agent text NOT NULL,
    version int NOT NULL,
    digest text NOT NULL,
    state text NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'WAITING_APPROVAL', 'WAITING_TIMER', 'WAITING_SIGNAL',
        'WAITING_RUN', 'PAUSED', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    priority int NOT NULL,
    -- When a worker must look at it: earliest start, end of a wait, end of the lease. NULL: ended.
    wake_at timestamptz,
    lease_owner text,
    lease_epoch bigint NOT NULL DEFAULT 0,
    -- Highest schema version in its journal: workers that cannot read it leave it alone.
    journal_version int NOT NULL,
    subject text NOT NULL,
    -- Who started it, for the audit events of its journal: kind, roles, groups, name and token of the caller.
    caller jsonb NOT NULL,
    session_id text NOT NULL,
    labels jsonb NOT NULL,
    -- Sealed under the subject's key.
    run_grant bytea NOT NULL,
    input bytea NOT NULL,
    output bytea,
    error jsonb,
    steps int NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL,
    -- Commitment of the last journal event: the next one's `prev`.
    last_commitment text NOT NULL,
    traceparent text NOT NULL,
    trace_id text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    end_time timestamptz
) WITH (fillfactor = 70);
-- Claiming takes the first that is due; parked and leased runs are found by their time.
CREATE INDEX run_queue ON run (priority DESC, wake_at) WHERE state = 'QUEUED';
CREATE INDEX run_wake ON run (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX run_list ON run (tenant, run_id DESC);
CREATE INDEX run_list_agent ON run (tenant, agent, run_id DESC);
CREATE INDEX run_labels ON run USING gin (labels jsonb_path_ops);

CREATE TABLE run_event (
    run_id text NOT NULL REFERENCES run,
    seq bigint NOT NULL,
    kind text NOT NULL,
    step_id text,
    schema_version int NOT NULL,
    epoch bigint NOT NULL,
    time timestamptz NOT NULL,
    -- JSON, sealed under the subject's key.
    data bytea NOT NULL,
    -- Fields whose values are too large to stand in `data`: name to digest.
    payloads jsonb,
    commitment text NOT NULL,
    PRIMARY KEY (run_id, seq)
);

-- Large values, once for each subject, sealed under the subject's key.
CREATE TABLE payload (
    tenant text NOT NULL,
    subject text NOT NULL,
    digest text NOT NULL,
    bytes bigint NOT NULL,
    content bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, subject, digest)
);

-- What others want of a run. Only the holder of its lease takes from here, and answers in the journal.
CREATE TABLE run_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES run,
    kind text NOT NULL CHECK (kind IN ('decision', 'cancel')),
    -- JSON, sealed under the key of the run's subject.
    body bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX run_inbox_run ON run_inbox (run_id, id);

CREATE TABLE approval (
    approval_id text PRIMARY KEY,
    tenant text NOT NULL,
    run_id text NOT NULL REFERENCES run,
    step_id text NOT NULL,
    agent text NOT NULL,
    version int NOT NULL,
    state text NOT NULL CHECK (state IN ('PENDING', 'APPROVED', 'EDITED', 'REJECTED', 'RESPONDED', 'EXPIRED', 'CANCELLED')),
    tool text NOT NULL,
    subject text NOT NULL,
    -- Sealed under the key of the run's subject, like what is decided.
    arguments bytea NOT NULL,
    arguments_digest text NOT NULL,
    arguments_schema text NOT NULL,
    approvers text[] NOT NULL,
    proposer text NOT NULL,
    expire_time timestamptz NOT NULL,
    decider text,
    decide_time timestamptz,
    message bytea,
    decided_arguments bytea,
    create_time timestamptz NOT NULL
);
CREATE INDEX approval_list ON approval (tenant, approval_id DESC);
CREATE INDEX approval_run ON approval (run_id, approval_id DESC);
CREATE INDEX approval_pending ON approval (run_id) WHERE state = 'PENDING';
