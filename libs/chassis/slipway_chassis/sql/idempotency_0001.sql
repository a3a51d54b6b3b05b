-- First answers to requests that carry a request id.
CREATE TABLE idempotency (
    tenant text NOT NULL,
    subject text NOT NULL,
    method text NOT NULL,
    request_id text NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, subject, method, request_id)
);
CREATE INDEX idempotency_create_time ON idempotency (create_time);
