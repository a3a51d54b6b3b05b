-- API keys. The secret itself is nowhere: only its SHA-256 digest.
CREATE TABLE api_key (
    key_id      text PRIMARY KEY,
    tenant      text NOT NULL,
    name        text NOT NULL,
    roles       text[] NOT NULL,
    owner       text NOT NULL,
    digest      bytea NOT NULL UNIQUE,
    request_id  text,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    revoke_time timestamptz
);
CREATE INDEX api_key_by_tenant ON api_key (tenant, key_id DESC);
CREATE INDEX api_key_by_name ON api_key (tenant, name);
CREATE UNIQUE INDEX api_key_by_request ON api_key (tenant, owner, request_id) WHERE request_id IS NOT NULL;

-- Revoked run grants: one by its id, or all that a subject had been given until then.
CREATE TABLE revoked_grant (
    tenant      text NOT NULL,
    grant_id    text NOT NULL,
    revoke_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, grant_id)
);
CREATE TABLE revoked_subject (
    tenant      text NOT NULL,
    subject     text NOT NULL,
    revoke_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, subject)
);
