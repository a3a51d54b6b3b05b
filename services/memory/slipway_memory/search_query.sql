-- Hybrid search: one statement, one snapshot. Tenant, collection, access list and labels hold in every branch.
--   $1 collection_id  $2 principals of the caller  $3 labels (jsonb)  $4 query vector  $5 query text
--   $6 alpha  $7 limit  $8 candidates of each branch
-- {vectors} and {dimensions} are put in by the program: the partition of the collection's vectors, and their size.
WITH question AS MATERIALIZED (
    -- All words, phrases and exclusions as asked for; when no passage has them, any of the words.
    SELECT websearch_to_tsquery('english', $5) AS strict,
           replace(plainto_tsquery('english', $5)::text, '&', '|')::tsquery AS loose
),
visible AS (
    SELECT v.version_id, v.chunk_count
    FROM document d
    JOIN document_version v ON v.version_id = d.live_version
    WHERE d.collection_id = $1
      AND (v.readers = '{{}}' OR v.readers && $2::text[])
      AND v.metadata @> $3::jsonb
),
-- An approximate index that is filtered to few rows visits very many before it has enough of them, or gives up: recall
-- collapses. Comparing V visible chunks costs V; the index visits about candidates × T / V of T chunks at ten times the
-- price, so that comparing is the better up to sqrt(10 × candidates × T); it is exact, too.
threshold AS MATERIALIZED (
    SELECT greatest(4000, sqrt(10.0 * $8 * greatest(reltuples, 0)))::bigint AS chunks
    FROM pg_class WHERE oid = '{vectors}'::regclass
),
extent AS MATERIALIZED (
    SELECT coalesce(sum(chunk_count), 0) <= (SELECT chunks FROM threshold) AS small
    FROM (SELECT chunk_count FROM visible LIMIT (SELECT chunks + 1 FROM threshold)) AS counted
),
-- The index is on the cast to vector({dimensions}): without that cast every vector is compared.
exact AS (
    SELECT e.chunk_id
    FROM visible v
    JOIN {vectors} e USING (version_id)
    WHERE (SELECT small FROM extent) AND $6::float8 > 0
    ORDER BY e.embedding <=> $4::text::vector, e.chunk_id
    LIMIT $8
),
-- The index goes on (hnsw.iterative_scan) until enough rows pass the filter.
approximate AS (
    SELECT e.chunk_id
    FROM {vectors} e
    JOIN document d ON d.live_version = e.version_id
    JOIN document_version v ON v.version_id = d.live_version
    WHERE NOT (SELECT small FROM extent) AND $6::float8 > 0
      AND d.collection_id = $1
      AND (v.readers = '{{}}' OR v.readers && $2::text[])
      AND v.metadata @> $3::jsonb
    ORDER BY e.embedding::vector({dimensions}) <=> $4::text::vector({dimensions})
    LIMIT $8
),
strict_match AS MATERIALIZED (
    SELECT c.chunk_id
    FROM chunk c
    JOIN visible v USING (version_id)
    WHERE $6::float8 < 1
      AND c.words @@ (SELECT strict FROM question)
    ORDER BY ts_rank(c.words, (SELECT strict FROM question), 1) DESC, c.chunk_id
    LIMIT $8
),
loose_match AS (
    SELECT c.chunk_id
    FROM chunk c
    JOIN visible v USING (version_id)
    WHERE $6::float8 < 1
      AND NOT EXISTS (SELECT FROM strict_match)
      AND c.words @@ (SELECT loose FROM question)
    ORDER BY ts_rank(c.words, (SELECT loose FROM question), 1) DESC, c.chunk_id
    LIMIT $8
),
wording AS MATERIALIZED (
    SELECT CASE WHEN EXISTS (SELECT FROM strict_match) THEN strict ELSE loose END AS words FROM question
),
candidate AS (
    SELECT chunk_id FROM exact
    UNION SELECT chunk_id FROM approximate
    UNION SELECT chunk_id FROM strict_match
    UNION SELECT chunk_id FROM loose_match
),
scored AS (
    SELECT c.chunk_id,
           1 - (e.embedding <=> $4::text::vector) AS similarity,
           CASE WHEN c.words @@ w.words THEN ts_rank(c.words, w.words, 1)::float8 ELSE 0 END AS rank
    FROM candidate
    JOIN chunk c USING (chunk_id)
    JOIN {vectors} e USING (chunk_id)
    CROSS JOIN wording w
),
-- Min-max over the candidates. The lowest rank is 0 by its nature; equal similarities count as 1.
normalised AS (
    SELECT chunk_id, similarity, rank,
           coalesce((similarity - min(similarity) OVER ()) / nullif(max(similarity) OVER () - min(similarity) OVER (), 0), 1)
               AS meaning,
           coalesce(rank / nullif(max(rank) OVER (), 0), 0) AS wording
    FROM scored
)
SELECT v.version_id || '.' || c.ordinal AS passage_id, d.name AS document, v.title, c.headings, c.page, c.text,
       $6::float8 * n.meaning + (1 - $6::float8) * n.wording AS score,
       c.start_offset, c.end_offset, v.digest AS document_digest
FROM normalised n
JOIN chunk c USING (chunk_id)
JOIN document_version v USING (version_id)
JOIN document d ON d.live_version = v.version_id
WHERE n.rank > 0 OR $6::float8 > 0
ORDER BY score DESC, n.similarity DESC, d.name, c.ordinal
LIMIT $7
