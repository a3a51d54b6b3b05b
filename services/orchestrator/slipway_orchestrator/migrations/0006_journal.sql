-- The journal in partitions of a month each, by the start of the run, and the commit of many runs in one round trip.

-- The smallest id of a run that starts at a moment: ids are TypeIDs, the first ten digits are the milliseconds.
CREATE FUNCTION run_id_at(moment timestamptz) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT 'run_' || string_agg(
        substr('0123456789abcdefghjkmnpqrstvwxyz', 1 + ((milliseconds >> (45 - 5 * place)) & 31)::int, 1),
        '' ORDER BY place)
    FROM (SELECT floor(extract(epoch FROM moment) * 1000)::bigint AS milliseconds) AS at, generate_series(0, 9) AS place
$$;

-- The month in which a run started, in UTC.
CREATE FUNCTION run_month(run_id text) RETURNS date LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN run_id ~ '^run_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        date_trunc('month', to_timestamp((
            SELECT sum((strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(run_id, 5 + place, 1)) - 1)::bigint
                << (45 - 5 * place)) FROM generate_series(0, 9) AS place)::float8 / 1000) AT TIME ZONE 'UTC')::date
    ELSE date '1970-01-01' END
$$;

-- What stood in one table becomes the partition of what belongs to no other one.
ALTER TABLE run_event DROP CONSTRAINT run_event_run_id_fkey;
ALTER TABLE run_event ALTER COLUMN run_id TYPE text COLLATE "C";
ALTER TABLE run_event RENAME TO run_event_rest;
ALTER INDEX run_event_pkey RENAME TO run_event_rest_pkey;
CREATE TABLE run_event (LIKE run_event_rest) PARTITION BY RANGE (run_id);
ALTER TABLE run_event ADD PRIMARY KEY (run_id, seq);
ALTER TABLE run_event ATTACH PARTITION run_event_rest DEFAULT;

-- Large values, once for each subject and month of the runs that hold them. `payload` has those of journals of version 1.
CREATE TABLE run_payload (
    month date NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    digest text NOT NULL,
    bytes bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (month, tenant, subject, digest)
) PARTITION BY RANGE (month);
CREATE TABLE run_payload_rest PARTITION OF run_payload DEFAULT;

-- Makes the partitions of a month, and moves there what already belongs to it. False: they are there.
CREATE FUNCTION make_journal_partition(month date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    suffix text := to_char(month, '"_"YYYY"_"MM');
    after date := (month + interval '1 month')::date;
    first_id text := run_id_at(month::timestamp AT TIME ZONE 'UTC');
    end_id text := run_id_at(after::timestamp AT TIME ZONE 'UTC');
BEGIN
    IF to_regclass('run_event' || suffix) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE run_event INCLUDING ALL)', 'run_event' || suffix);
    EXECUTE format('WITH moved AS (DELETE FROM run_event_rest WHERE run_id >= %L AND run_id < %L RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', first_id, end_id, 'run_event' || suffix);
    EXECUTE format('ALTER TABLE run_event ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        'run_event' || suffix, first_id, end_id);
    EXECUTE format('CREATE TABLE %I (LIKE run_payload INCLUDING ALL)', 'run_payload' || suffix);
    EXECUTE format('WITH moved AS (DELETE FROM run_payload_rest WHERE month >= %L AND month < %L RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', month, after, 'run_payload' || suffix);
    EXECUTE format('ALTER TABLE run_payload ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        'run_payload' || suffix, month, after);
    RETURN true;
END
$$;

DO $$
DECLARE
    month date;
BEGIN
    FOR month IN
        SELECT DISTINCT run_month(run_id) FROM run WHERE run_month(run_id) > '1970-01-01'
        UNION SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date
            FROM generate_series(0, 1) AS ahead
    LOOP
        PERFORM make_journal_partition(month);
    END LOOP;
END
$$;

-- Commits what workers decided for several runs, each fenced by itself: a run whose lease was lost is left out, with all
-- that belongs to it. Arrays of runs have one place a run, those of events one place an event (`event_run`: which run).
-- `states`: '' the worker goes on, else the state in which it leaves the run, until `wakes`. Answers with the places of
-- the runs that were written, and whether their inbox has something; a run left with something in it is queued.
-- Unless `patient`, runs that somebody else has locked right now are left out as well: one must not hold up the others.
CREATE FUNCTION commit_runs(
    owner text, lease_seconds float8, patient boolean,
    run_ids text[], epochs bigint[], last_seqs bigint[], commitments text[], versions int[], step_counts int[],
    input_token_counts bigint[], output_token_counts bigint[], costs numeric[], states text[], wakes timestamptz[],
    outputs bytea[], errors text[], consumed bigint[],
    event_runs int[], seqs bigint[], kinds text[], step_ids text[], schema_versions int[], times timestamptz[],
    datas bytea[], payload_refs text[], event_commitments text[], message_ids text[], message_headers text[],
    message_bodies bytea[]
) RETURNS TABLE (place int, asked boolean) LANGUAGE plpgsql AS $$
DECLARE
    held int[];
    ended text[];
BEGIN
    IF patient THEN
        SELECT array_agg(locked.place) INTO held FROM (
            SELECT given.place::int FROM unnest(run_ids, epochs) WITH ORDINALITY AS given (run_id, epoch, place)
            JOIN run ON run.run_id = given.run_id
            WHERE run.lease_epoch = given.epoch AND run.lease_owner = owner AND run.state = 'RUNNING'
            ORDER BY run.run_id FOR NO KEY UPDATE OF run
        ) AS locked;
    ELSE
        SELECT array_agg(locked.place) INTO held FROM (
            SELECT given.place::int FROM unnest(run_ids, epochs) WITH ORDINALITY AS given (run_id, epoch, place)
            JOIN run ON run.run_id = given.run_id
            WHERE run.lease_epoch = given.epoch AND run.lease_owner = owner AND run.state = 'RUNNING'
            FOR NO KEY UPDATE OF run SKIP LOCKED
        ) AS locked;
    END IF;
    IF held IS NULL THEN
        RETURN;
    END IF;

    INSERT INTO run_event (run_id, seq, kind, step_id, schema_version, epoch, time, data, payloads, commitment)
        SELECT run_ids[event.run], event.seq, event.kind, event.step_id, event.version, epochs[event.run], event.time,
            event.data, event.payloads::jsonb, event.commitment
        FROM unnest(event_runs, seqs, kinds, step_ids, schema_versions, times, datas, payload_refs, event_commitments)
            AS event (run, seq, kind, step_id, version, time, data, payloads, commitment)
        WHERE event.run = ANY (held);

    INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body, receipt)
        SELECT message.id, 'audit.events', run.run_id, run.tenant, run.subject, message.headers::jsonb, message.body, true
        FROM unnest(event_runs, message_ids, message_headers, message_bodies)
            WITH ORDINALITY AS message (run, id, headers, body, place)
        JOIN run ON run.run_id = run_ids[message.run]
        WHERE message.run = ANY (held) ORDER BY message.place;

    IF cardinality(consumed) > 0 THEN
        DELETE FROM run_inbox WHERE id = ANY (consumed)
            AND run_inbox.run_id IN (SELECT run_ids[held_place] FROM unnest(held) AS held_place);
    END IF;

    SELECT array_agg(run_ids[held_place]) INTO ended FROM unnest(held) AS held_place
        WHERE states[held_place] IN ('SUCCEEDED', 'FAILED', 'CANCELLED');
    IF ended IS NOT NULL THEN
        DELETE FROM run_inbox WHERE run_inbox.run_id = ANY (ended);
        UPDATE approval SET state = 'CANCELLED', decide_time = now()
            WHERE approval.run_id = ANY (ended) AND approval.state = 'PENDING';
    END IF;

    -- Whoever puts something into an inbox locks the run first: nothing slips in between this look and the commit.
    RETURN QUERY UPDATE run SET
        last_seq = given.last_seq, last_commitment = given.commitment, steps = given.steps,
        input_tokens = given.input_tokens, output_tokens = given.output_tokens, cost_usd = given.cost,
        journal_version = greatest(journal_version, given.version), progress_epoch = lease_epoch, update_time = now(),
        state = CASE WHEN given.state = '' THEN 'RUNNING'
            WHEN given.state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') THEN given.state
            WHEN given.asked THEN 'QUEUED' ELSE given.state END,
        wake_at = CASE
            WHEN given.state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') THEN NULL
            WHEN given.state <> '' THEN CASE WHEN given.asked THEN now() ELSE given.wake END
            WHEN wake_at < now() + make_interval(secs => lease_seconds / 2)
                THEN now() + make_interval(secs => lease_seconds)
            ELSE wake_at END,
        lease_owner = CASE WHEN given.state = '' THEN lease_owner END,
        end_time = CASE WHEN given.state IN ('SUCCEEDED', 'FAILED', 'CANCELLED') THEN now() END,
        output = CASE WHEN given.state = '' THEN run.output ELSE given.output END,
        error = CASE WHEN given.state = '' THEN run.error ELSE given.error::jsonb END
    FROM (
        SELECT each.*, EXISTS (SELECT FROM run_inbox WHERE run_inbox.run_id = each.run_id) AS asked
        FROM unnest(run_ids, last_seqs, commitments, versions, step_counts, input_token_counts, output_token_counts,
            costs, states, wakes, outputs, errors) WITH ORDINALITY AS each (run_id, last_seq, commitment, version, steps,
            input_tokens, output_tokens, cost, state, wake, output, error, place)
        WHERE each.place = ANY (held)
    ) AS given
    WHERE run.run_id = given.run_id
    RETURNING given.place::int, given.asked;
END
$$;
