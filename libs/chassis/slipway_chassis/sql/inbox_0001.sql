-- Messages that a consumer has handled, so that a redelivery changes nothing.
CREATE TABLE inbox (
    consumer text NOT NULL,
    message_id text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX inbox_create_time ON inbox (create_time);
