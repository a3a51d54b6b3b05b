-- Effects asked for by runs, and what came of them.
CREATE TABLE effect (
    tenant text NOT NULL,
    key text NOT NULL,
    subject text NOT NULL,
    fingerprint bytea NOT NULL,
    -- Highest lease epoch that has asked: an older one is a zombie's.
    epoch bigint NOT NULL,
    attempt int NOT NULL,
    state text NOT NULL CHECK (state IN ('RUNNING', 'DONE', 'FAILED', 'UNCERTAIN')),
    -- The execution that may write the outcome; another one took over when it differs.
    execution uuid NOT NULL,
    -- The process that executes, and its last sign of life.
    owner uuid NOT NULL,
    heartbeat timestamptz NOT NULL DEFAULT now(),
    -- DONE: the answer. FAILED, UNCERTAIN: a google.rpc.Status.
    outcome bytea,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, key)
);
CREATE INDEX effect_create_time ON effect (create_time);
CREATE INDEX effect_running ON effect (owner) WHERE state = 'RUNNING';
