-- Logins at authorization servers for MCP servers, and logins that are under way.

CREATE TABLE mcp_authorization (
    tenant text NOT NULL,
    server text NOT NULL,
    -- Whose it is; empty: the whole tenant's.
    subject text NOT NULL,
    -- Of the connection that it was made for; with another one it counts for nothing.
    connection_digest text NOT NULL,
    issuer text NOT NULL,
    -- Who logged in: under their key the tokens are sealed, so that erasing them destroys the tokens.
    authorizer text NOT NULL,
    -- Sealed JSON: tokens, endpoints, client. NULL: the tokens were refused, somebody must log in anew.
    sealed bytea,
    scopes text[] NOT NULL,
    -- What the server asked for in addition (403 insufficient_scope): asked for at the next login.
    missing_scopes text[] NOT NULL DEFAULT '{}',
    -- Of the access token; NULL: the server tells none.
    expire_time timestamptz,
    refreshable boolean NOT NULL,
    -- Counts tokens: who wants to refresh names the one that is to be replaced.
    generation bigint NOT NULL DEFAULT 1,
    -- One replica refreshes, until then; the others wait for its tokens.
    refresh_until timestamptz,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, server, subject)
);

CREATE TABLE mcp_login (
    -- SHA-256 of `state`: who can read the table can't finish a login with it.
    state_digest bytea PRIMARY KEY,
    tenant text NOT NULL,
    server text NOT NULL,
    -- Who began it, and alone may finish it.
    person text NOT NULL,
    connection_digest text NOT NULL,
    -- Sealed JSON: PKCE verifier, endpoints, client.
    sealed bytea NOT NULL,
    expire_time timestamptz NOT NULL
);
CREATE INDEX mcp_login_expiry ON mcp_login (expire_time);
CREATE INDEX mcp_login_person ON mcp_login (tenant, person);
