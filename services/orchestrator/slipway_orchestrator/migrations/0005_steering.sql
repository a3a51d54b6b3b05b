-- Trees of runs, forks, worker pools and sessions; votes, reminders; kill switches; more that others want of a run.
ALTER TABLE run
    ADD COLUMN parent_run_id text,
    ADD COLUMN parent_step text,
    ADD COLUMN root_run_id text,
    ADD COLUMN depth int NOT NULL DEFAULT 0,
    ADD COLUMN worker_pool text NOT NULL DEFAULT '',
    ADD COLUMN session_policy text NOT NULL DEFAULT 'queue' CHECK (session_policy IN ('refuse', 'queue', 'interrupt')),
    -- Run and last event that was copied.
    ADD COLUMN forked_from_run_id text,
    ADD COLUMN forked_from_seq bigint,
    ADD COLUMN schedule text NOT NULL DEFAULT '',
    ADD COLUMN not_before timestamptz;
UPDATE run SET root_run_id = run_id;
ALTER TABLE run ALTER COLUMN root_run_id SET NOT NULL;
CREATE INDEX run_children ON run (parent_run_id, run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX run_open ON run (tenant, agent, run_id) WHERE end_time IS NULL;
CREATE INDEX run_session ON run (tenant, session_id, run_id) WHERE session_id <> '' AND end_time IS NULL;

ALTER TABLE run_inbox DROP CONSTRAINT run_inbox_kind_check;
ALTER TABLE run_inbox ADD CONSTRAINT run_inbox_kind_check CHECK (kind IN
    ('decision', 'cancel', 'pause', 'resume', 'signal', 'limits', 'child', 'suspend', 'unsuspend'));

ALTER TABLE approval
    ADD COLUMN quorum int NOT NULL DEFAULT 1,
    ADD COLUMN reminders int NOT NULL DEFAULT 0,
    -- NULL: nobody is reminded.
    ADD COLUMN remind_every interval,
    ADD COLUMN last_reminder timestamptz,
    ADD COLUMN reason text NOT NULL DEFAULT '',
    ADD COLUMN escalation boolean NOT NULL DEFAULT false;
-- Approvals by one of several; a person votes once.
CREATE TABLE approval_vote (
    approval_id text NOT NULL REFERENCES approval,
    person text NOT NULL,
    -- The voter's facts and message, sealed under the key of the run's subject.
    vote bytea NOT NULL,
    vote_time timestamptz NOT NULL,
    PRIMARY KEY (approval_id, person)
);

-- Kill switches that are pulled: of an agent, a tenant (agent is empty), or everything (both are).
CREATE TABLE suspension (
    tenant text NOT NULL,
    agent text NOT NULL,
    reason text NOT NULL,
    suspended_by text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, agent)
);
