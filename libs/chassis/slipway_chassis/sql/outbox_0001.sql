-- Messages that committed together with the change they tell of, until the bus has confirmed them.
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id text NOT NULL,
    topic text NOT NULL,
    -- Messages of one key are published in the order of their ids.
    ordering_key text NOT NULL,
    tenant text NOT NULL,
    -- Whose key seals the body; empty: the body is not personal and stands as it is.
    subject text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    next_attempt_time timestamptz NOT NULL DEFAULT now(),
    create_time timestamptz NOT NULL DEFAULT now()
);
