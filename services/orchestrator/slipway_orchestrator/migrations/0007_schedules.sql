-- Runs that start by the clock.
CREATE TABLE schedule (
    tenant text NOT NULL,
    agent text NOT NULL,
    name text NOT NULL,
    cron text NOT NULL,
    time_zone text NOT NULL,
    labels jsonb NOT NULL,
    priority int NOT NULL,
    overlap text NOT NULL CHECK (overlap IN ('SKIP', 'QUEUE', 'CANCEL_OLDER')),
    catch_up interval NOT NULL,
    paused boolean NOT NULL,
    stop_reason text NOT NULL DEFAULT '',
    owner text NOT NULL,
    -- Sealed under the owner's key.
    input bytea NOT NULL,
    schedule_grant bytea NOT NULL,
    -- When a worker must look at it: the due time, or a little later after a try that failed. NULL: never.
    wake_at timestamptz,
    next_time timestamptz,
    -- Due time whose run waits for those before it to end.
    queued_time timestamptz,
    last_time timestamptz,
    last_run_id text NOT NULL DEFAULT '',
    last_outcome text NOT NULL DEFAULT '',
    last_message text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, agent, name),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, name)
);
CREATE INDEX schedule_wake ON schedule (wake_at) WHERE wake_at IS NOT NULL;

-- What came of each due time. The key is what lets a due time start one run only.
CREATE TABLE schedule_firing (
    tenant text NOT NULL,
    agent text NOT NULL,
    name text NOT NULL,
    due_time timestamptz NOT NULL,
    outcome text NOT NULL,
    run_id text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, agent, name, due_time)
);
CREATE INDEX run_schedule ON run (tenant, agent, schedule) WHERE schedule <> '' AND end_time IS NULL;

-- Votes go with their approval.
ALTER TABLE approval_vote DROP CONSTRAINT approval_vote_approval_id_fkey;
ALTER TABLE approval_vote ADD FOREIGN KEY (approval_id) REFERENCES approval ON DELETE CASCADE;
