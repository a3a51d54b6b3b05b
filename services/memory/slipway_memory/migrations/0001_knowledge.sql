-- Collections, documents, their versions and chunks; files; objects to be deleted.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE collection (
    collection_id text PRIMARY KEY,
    tenant text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    -- Name in the router's catalogue, and what its vectors measure; both fixed at creation.
    embedding_model text NOT NULL,
    dimensions int NOT NULL,
    regions text[] NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name)
);

CREATE TABLE document (
    document_id text PRIMARY KEY,
    tenant text NOT NULL,
    collection_id text NOT NULL REFERENCES collection,
    -- The caller's id of it.
    name text NOT NULL,
    -- What was put last, and what is searched: the same version once it is READY. Search joins on live_version, so one
    -- update of it swaps old content, access list and labels for new.
    latest_version text NOT NULL,
    live_version text,
    create_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (collection_id, name)
);
CREATE UNIQUE INDEX document_live_version ON document (live_version);

CREATE TABLE document_version (
    version_id text PRIMARY KEY,
    document_id text NOT NULL REFERENCES document ON DELETE CASCADE,
    tenant text NOT NULL,
    -- Subject that put it: sees its state whatever the access list says.
    owner text NOT NULL,
    filename text NOT NULL,
    declared_type text NOT NULL,
    content_type text NOT NULL,
    size_bytes bigint NOT NULL,
    digest text NOT NULL,
    title text NOT NULL,
    page_count int NOT NULL,
    readers text[] NOT NULL,
    metadata jsonb NOT NULL,
    object_key text NOT NULL,
    state text NOT NULL CHECK (state IN ('INDEXING', 'READY', 'FAILED')),
    error text NOT NULL DEFAULT '',
    chunk_count int NOT NULL,
    indexed_chunk_count int NOT NULL DEFAULT 0,
    -- Who is embedding, and until when nobody else takes it. Without an indexer: not before then by the sweeper.
    indexer text,
    indexer_until timestamptz,
    failures int NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX document_version_document ON document_version (document_id);
CREATE INDEX document_version_indexing ON document_version (create_time) WHERE state = 'INDEXING';

CREATE TABLE chunk (
    chunk_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_id text NOT NULL REFERENCES document_version ON DELETE CASCADE,
    ordinal int NOT NULL,
    text text NOT NULL,
    headings text[] NOT NULL,
    -- The headings as they are embedded and searched.
    context text NOT NULL,
    page int NOT NULL,
    start_offset bigint NOT NULL,
    end_offset bigint NOT NULL,
    words tsvector NOT NULL GENERATED ALWAYS AS (
        setweight(to_tsvector('english', context), 'B') || to_tsvector('english', text)
    ) STORED,
    UNIQUE (version_id, ordinal)
);
CREATE INDEX chunk_words ON chunk USING gin (words);

-- Apart from `chunk`, so that embedding a chunk does not write its text and its index entries a second time, and a row
-- of 384 dimensions stays in its page. One partition for each usual number of dimensions, with an index of its own; what
-- has another number is in the last one and is compared without an index.
CREATE TABLE chunk_embedding (
    chunk_id bigint NOT NULL REFERENCES chunk ON DELETE CASCADE,
    dimensions int NOT NULL,
    version_id text NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (chunk_id, dimensions)
) PARTITION BY LIST (dimensions);
CREATE INDEX chunk_embedding_version ON chunk_embedding (version_id);

CREATE TABLE chunk_embedding_384 PARTITION OF chunk_embedding FOR VALUES IN (384);
CREATE INDEX chunk_embedding_384_hnsw ON chunk_embedding_384 USING hnsw ((embedding::vector(384)) vector_cosine_ops)
    WITH (ef_construction = 128);
CREATE TABLE chunk_embedding_768 PARTITION OF chunk_embedding FOR VALUES IN (768);
CREATE INDEX chunk_embedding_768_hnsw ON chunk_embedding_768 USING hnsw ((embedding::vector(768)) vector_cosine_ops)
    WITH (ef_construction = 128);
CREATE TABLE chunk_embedding_1024 PARTITION OF chunk_embedding FOR VALUES IN (1024);
CREATE INDEX chunk_embedding_1024_hnsw ON chunk_embedding_1024 USING hnsw ((embedding::vector(1024)) vector_cosine_ops)
    WITH (ef_construction = 128);
CREATE TABLE chunk_embedding_1536 PARTITION OF chunk_embedding FOR VALUES IN (1536);
CREATE INDEX chunk_embedding_1536_hnsw ON chunk_embedding_1536 USING hnsw ((embedding::vector(1536)) vector_cosine_ops)
    WITH (ef_construction = 128);
CREATE TABLE chunk_embedding_other PARTITION OF chunk_embedding DEFAULT;

CREATE TABLE file (
    file_id text PRIMARY KEY,
    tenant text NOT NULL,
    owner text NOT NULL,
    filename text NOT NULL,
    content_type text NOT NULL,
    size_bytes bigint NOT NULL,
    digest text NOT NULL,
    readers text[] NOT NULL,
    object_key text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz NOT NULL
);
CREATE INDEX file_tenant ON file (tenant);
CREATE INDEX file_expire_time ON file (expire_time);

-- Objects that no row needs: put here before an upload (in case the process dies in it) and when their row goes.
CREATE TABLE orphan_object (
    object_key text PRIMARY KEY,
    delete_after timestamptz NOT NULL
);
CREATE INDEX orphan_object_delete_after ON orphan_object (delete_after);
