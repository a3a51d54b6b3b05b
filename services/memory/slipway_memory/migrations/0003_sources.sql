-- Governed data sources. The database's URL is a reference in the declaration, never itself in here.
CREATE TABLE source (
    source_id text PRIMARY KEY,
    tenant text NOT NULL,
    name text NOT NULL,
    -- Subject that declared it first.
    owner text NOT NULL,
    version int NOT NULL,
    declaration jsonb NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name)
);
