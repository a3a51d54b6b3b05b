-- Finished runs go when their time is over; their journals go with the month's partitions.
CREATE INDEX run_ended ON run (end_time) WHERE end_time IS NOT NULL;

-- Deletes up to `most` finished runs that are older than their rule says. A rule is a tenant, a state and days; '*' stands
-- for any, the rule that names the tenant goes before the one that names the state, and runs without a rule stay. Runs
-- of a tree stay until its root has ended. Journals are left: their partitions are dropped, see `drop_journal_partition`.
CREATE FUNCTION expire_runs(rule_tenants text[], rule_states text[], rule_days int[], most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    gone text[];
BEGIN
    SELECT array_agg(expired.run_id) INTO gone FROM (
        SELECT run.run_id FROM run CROSS JOIN LATERAL (
            SELECT rule.days FROM unnest(rule_tenants, rule_states, rule_days) AS rule (tenant, state, days)
            WHERE rule.tenant IN (run.tenant, '*') AND rule.state IN (run.state, '*')
            ORDER BY rule.tenant = '*', rule.state = '*' LIMIT 1
        ) AS kept
        WHERE run.end_time < now() - make_interval(days => kept.days)
            AND run.end_time < now() - make_interval(days => (SELECT min(least_days) FROM unnest(rule_days) AS least_days))
            AND NOT EXISTS (SELECT FROM run AS root WHERE root.run_id = run.root_run_id AND root.end_time IS NULL)
        ORDER BY run.end_time LIMIT most FOR UPDATE OF run SKIP LOCKED
    ) AS expired;
    IF gone IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM approval_vote USING approval
        WHERE approval.approval_id = approval_vote.approval_id AND approval.run_id = ANY (gone);
    DELETE FROM approval WHERE run_id = ANY (gone);
    DELETE FROM run_inbox WHERE run_id = ANY (gone);
    DELETE FROM run_tree WHERE root_run_id = ANY (gone);
    DELETE FROM run WHERE run_id = ANY (gone);
    RETURN cardinality(gone);
END
$$;

-- Months of partitions of which no run is left, and which are over for a day: ids of new runs are beyond them.
CREATE FUNCTION empty_journal_months() RETURNS SETOF date LANGUAGE sql STABLE AS $$
    SELECT month FROM (
        SELECT to_date(substr(child.relname, 11), 'YYYY_MM') AS month FROM pg_inherits
        JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = 'run_event'::regclass AND child.relname ~ '^run_event_[0-9]{4}_[0-9]{2}$'
    ) AS partition
    WHERE (month + interval '1 month 1 day') AT TIME ZONE 'UTC' < now() AND NOT EXISTS (
        SELECT FROM run WHERE run.run_id COLLATE "C" >= run_id_at(month::timestamp AT TIME ZONE 'UTC')
            AND run.run_id COLLATE "C" < run_id_at((month + interval '1 month') AT TIME ZONE 'UTC'))
    ORDER BY month
$$;

-- Drops the partitions of a month whole. Gives up after two seconds when somebody reads what they belong to.
CREATE FUNCTION drop_journal_partition(month date) RETURNS void LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
BEGIN
    EXECUTE format('DROP TABLE %I, %I',
        'run_event' || to_char(month, '"_"YYYY"_"MM'), 'run_payload' || to_char(month, '"_"YYYY"_"MM'));
END
$$;

-- Deletes up to `most` events of runs that are gone from months which somebody else's runs keep for more than `patience`
-- days from now: rules differ by tenant or state, or a run has been waiting since.
CREATE FUNCTION delete_left_events(
    rule_tenants text[], rule_states text[], rule_days int[], patience int, most int
) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    deleted int;
BEGIN
    WITH month AS (
        SELECT month FROM (
            SELECT to_date(substr(child.relname, 11), 'YYYY_MM') AS month FROM pg_inherits
            JOIN pg_class AS child ON child.oid = inhrelid
            WHERE inhparent = 'run_event'::regclass AND child.relname ~ '^run_event_[0-9]{4}_[0-9]{2}$'
        ) AS partition
        WHERE (month + interval '1 month 1 day') AT TIME ZONE 'UTC' < now() AND EXISTS (
            SELECT FROM run LEFT JOIN LATERAL (
                SELECT rule.days FROM unnest(rule_tenants, rule_states, rule_days) AS rule (tenant, state, days)
                WHERE rule.tenant IN (run.tenant, '*') AND rule.state IN (run.state, '*')
                ORDER BY rule.tenant = '*', rule.state = '*' LIMIT 1
            ) AS kept ON true
            WHERE run.run_id COLLATE "C" >= run_id_at(month::timestamp AT TIME ZONE 'UTC')
                AND run.run_id COLLATE "C" < run_id_at((month + interval '1 month') AT TIME ZONE 'UTC')
                AND (run.end_time IS NULL OR kept.days IS NULL
                    OR run.end_time + make_interval(days => kept.days) > now() + make_interval(days => patience)))
    ), left_over AS (
        SELECT event.run_id, event.seq FROM month JOIN run_event AS event
            ON event.run_id >= run_id_at(month::timestamp AT TIME ZONE 'UTC')
            AND event.run_id < run_id_at((month + interval '1 month') AT TIME ZONE 'UTC')
        WHERE NOT EXISTS (SELECT FROM run WHERE run.run_id = event.run_id) LIMIT most
    )
    DELETE FROM run_event USING left_over
        WHERE run_event.run_id = left_over.run_id AND run_event.seq = left_over.seq;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
