-- What an index outside this database (Weaviate) holds, so that what it lost is found and indexed again. Vectors in
-- chunk_embedding need none of this.

-- Counts changes of access list and labels: an outside index carries copies of them.
ALTER TABLE document_version ADD COLUMN description_revision int NOT NULL DEFAULT 0;

-- Written into collections, so that two installations do not take one another's for their own.
CREATE TABLE vector_installation (installation text PRIMARY KEY);
INSERT INTO vector_installation VALUES (replace(gen_random_uuid()::text, '-', ''));

CREATE TABLE vector_home (
    -- Name of the collection in Weaviate; a rebuilt one has another.
    home text PRIMARY KEY,
    -- Name under which it is searched.
    alias text NOT NULL,
    dimensions int NOT NULL,
    -- Number of the layout of its objects; a collection of an older one is built anew.
    layout int NOT NULL,
    -- BUILDING: filled beside the one that is searched, and takes its place when it holds everything.
    state text NOT NULL CHECK (state IN ('SERVING', 'BUILDING')),
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX vector_home_state ON vector_home (alias, state);

-- No reference to document_version: a row without one is what is left to be deleted from the index.
CREATE TABLE vector_version (
    home text NOT NULL REFERENCES vector_home ON DELETE CASCADE,
    version_id text NOT NULL,
    tenant text NOT NULL,
    -- The first `stored` chunks are in the index, with access list and labels of at least this revision.
    stored int NOT NULL DEFAULT 0,
    revision int NOT NULL,
    -- When the index was last asked whether it has them.
    check_time timestamptz NOT NULL DEFAULT now(),
    -- When it was first deleted from the index. It is deleted once more later: an indexer may have been writing it.
    gone_time timestamptz,
    PRIMARY KEY (home, version_id)
);
CREATE INDEX vector_version_check ON vector_version (home, check_time);
