-- Versions of declared tools, MCP servers, and what was approved of their tools.

ALTER TABLE tool
    -- From 1; a changed declaration is the next one.
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    -- Why the tool can't be called; empty: it can. An MCP tool that changed stays here until it is approved anew.
    ADD COLUMN quarantine text NOT NULL DEFAULT '';

CREATE TABLE tool_version (
    tenant text NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    declaration text NOT NULL,
    digest text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name, version)
);

INSERT INTO tool_version (tenant, name, version, declaration, digest, create_time)
SELECT tenant, name, 1, declaration, digest, update_time FROM tool;

CREATE TABLE mcp_server (
    tenant text NOT NULL,
    name text NOT NULL,
    -- JSON of the connection; secrets are in it by name only.
    connection text NOT NULL,
    digest text NOT NULL,
    -- The person who connected it or changed its connection last: who may not approve its tools.
    proposer text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);
