-- Hybrid search: one statement, one snapshot. Tenant, collection, access list and labels hold in every branch.
--   $1 collection_id  $2 principals of the caller  $3 labels (jsonb)  $4 query vector  $5 query text
--   $6 alpha  $7 limit  $8 candidates of each branch  $9 chunks up to which vectors are compared one by one
-- {dimensions} is put in by the program: the partial index needs it as a constant.
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
extent AS MATERIALIZED (
    SELECT coalesce(sum(chunk_count), 0) <= $9 AS small
    FROM (SELECT chunk_count FROM visible LIMIT $9 + 1) AS counted
),
-- An approximate index filtered to few rows loses the nearest of them: few are compared exactly.
exact AS (
    SELECT e.chunk_id
    FROM visible v
    JOIN chunk_embedding e USING (version_id)
    WHERE (SELECT small FROM extent)
      AND vector_dims(e.embedding) = {dimensions}
    ORDER BY e.embedding::vector({dimensions}) <=> $4::text::vector({dimensions}), e.chunk_id
    LIMIT $8
),
-- Many are found by the index, which goes on (hnsw.iterative_scan) until enough pass the filter.
approximate AS (
    SELECT e.chunk_id
    FROM chunk_embedding e
    JOIN document d ON d.live_version = e.version_id
    JOIN document_version v ON v.version_id = d.live_version
    WHERE NOT (SELECT small FROM extent)
      AND vector_dims(e.embedding) = {dimensions}
      AND d.collection_id = $1
      AND (v.readers = '{{}}' OR v.readers && $2::text[])
      AND v.metadata @> $3::jsonb
    ORDER BY e.embedding::vector({dimensions}) <=> $4::text::vector({dimensions})
    LIMIT $8
),
wording AS MATERIALIZED (
    SELECT CASE WHEN EXISTS (
        SELECT FROM chunk c JOIN visible v USING (version_id), question q WHERE c.words @@ q.strict
    ) THEN strict ELSE loose END AS words
    FROM question
),
lexical AS (
    SELECT c.chunk_id
    FROM chunk c
    JOIN visible v USING (version_id)
    WHERE c.words @@ (SELECT words FROM wording)
    ORDER BY ts_rank(c.words, (SELECT words FROM wording), 1) DESC, c.chunk_id
    LIMIT $8
),
candidate AS (
    SELECT chunk_id FROM exact UNION SELECT chunk_id FROM approximate UNION SELECT chunk_id FROM lexical
),
scored AS (
    SELECT c.chunk_id,
           1 - (e.embedding::vector({dimensions}) <=> $4::text::vector({dimensions})) AS similarity,
           CASE WHEN c.words @@ w.words THEN ts_rank(c.words, w.words, 1)::float8 ELSE 0 END AS rank
    FROM candidate
    JOIN chunk c USING (chunk_id)
    JOIN chunk_embedding e USING (chunk_id)
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
