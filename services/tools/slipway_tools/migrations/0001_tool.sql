-- Tools that tenants declared. Builtin tools are not in here.
CREATE TABLE tool (
    tenant text NOT NULL,
    name text NOT NULL,
    -- JSON of the declaration, in the order in which it was written; secrets are in it by name only.
    declaration text NOT NULL,
    digest text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);
