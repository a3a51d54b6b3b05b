-- One data key per subject, wrapped under the service's own key. Deleting the row erases what it seals.
CREATE TABLE subject_key (
    tenant text NOT NULL,
    subject text NOT NULL,
    key_id bytea NOT NULL,
    wrapped_key bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, subject)
);
