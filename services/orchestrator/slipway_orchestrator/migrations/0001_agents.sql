-- Agents and their immutable versions.
CREATE TABLE agent (
    tenant text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    labels jsonb NOT NULL,
    latest_version int NOT NULL,
    production_version int,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);

CREATE TABLE agent_version (
    tenant text NOT NULL,
    agent text NOT NULL,
    version int NOT NULL,
    digest text NOT NULL,
    state text NOT NULL CHECK (state IN ('DRAFT', 'IN_REVIEW', 'APPROVED', 'REJECTED')),
    -- As it was sent, and its values as JSON text.
    source text NOT NULL,
    definition text NOT NULL,
    author text NOT NULL,
    submitter text NOT NULL DEFAULT '',
    reviewer text NOT NULL DEFAULT '',
    review_message text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, agent, version),
    UNIQUE (tenant, agent, digest),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, name)
);

-- What was in production, in order: a rollback takes the last entry back.
CREATE TABLE promotion (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    agent text NOT NULL,
    version int NOT NULL,
    promoter text NOT NULL,
    -- True once a rollback has taken it back.
    taken_back boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant, agent, version) REFERENCES agent_version (tenant, agent, version)
);
CREATE INDEX promotion_agent ON promotion (tenant, agent, id DESC);
