-- One log per tenant. Its row is the sequencer's lock and holds the right edge of the tree.
CREATE TABLE audit_log (
    tenant text PRIMARY KEY,
    -- 1, and one more after every restore from backup: each generation is a log of its own, with its own origin.
    generation int NOT NULL DEFAULT 1,
    -- Extension line of its checkpoints that names the head of the generation before; empty in the first.
    previous text NOT NULL DEFAULT '',
    size bigint NOT NULL DEFAULT 0,
    -- Hashes of the complete subtrees that cover the leaves, largest first.
    frontier bytea NOT NULL DEFAULT ''
);

CREATE TABLE audit_leaf (
    tenant text NOT NULL,
    index bigint NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    event_time timestamptz,
    run_id text NOT NULL,
    -- Place in the run's journal and kind of the row; NULL and empty on other events.
    seq bigint,
    kind text NOT NULL,
    -- Whose key seals the content.
    subject text NOT NULL,
    -- The leaf's data in the tree.
    commitment bytea NOT NULL,
    -- Salt and canonical event, sealed under the subject's key: destroying the key destroys both. NULL: erased.
    sealed bytea,
    PRIMARY KEY (tenant, index)
);
CREATE UNIQUE INDEX audit_leaf_event ON audit_leaf (tenant, event_id);
CREATE INDEX audit_leaf_run ON audit_leaf (tenant, run_id, index) WHERE run_id <> '';
CREATE INDEX audit_leaf_type ON audit_leaf (tenant, type, index);

-- Full tiles of 256 hashes, written once. Level 0 holds leaf hashes, level n the roots of tiles of level n - 1; tiles
-- that are not full yet are read from the leaves and the roots beneath them.
CREATE TABLE audit_tile (
    tenant text NOT NULL,
    level smallint NOT NULL,
    place bigint NOT NULL,
    root bytea NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (tenant, level, place)
);

-- Every head that was ever signed.
CREATE TABLE audit_checkpoint (
    tenant text NOT NULL,
    generation int NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    note text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, generation, size)
);

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME;
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_tile FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_checkpoint FOR EACH ROW EXECUTE FUNCTION audit_refuse();

-- Of a leaf nothing may change but that its content is erased.
CREATE TRIGGER append_only BEFORE DELETE ON audit_leaf FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER erase_only BEFORE UPDATE ON audit_leaf FOR EACH ROW
    WHEN (NEW.sealed IS NOT NULL
          OR (NEW.tenant, NEW.index, NEW.event_id, NEW.type, NEW.event_time, NEW.run_id, NEW.seq, NEW.kind, NEW.commitment)
             IS DISTINCT FROM
             (OLD.tenant, OLD.index, OLD.event_id, OLD.type, OLD.event_time, OLD.run_id, OLD.seq, OLD.kind, OLD.commitment))
    EXECUTE FUNCTION audit_refuse();
