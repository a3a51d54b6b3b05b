-- Claiming: fair between tenants, by priority within one, within the concurrency of tenants and agents.
ALTER TABLE run ADD COLUMN agent_concurrency int CHECK (agent_concurrency > 0);

DROP INDEX run_queue;
DROP INDEX run_wake;
CREATE INDEX run_queue ON run (worker_pool, tenant, agent, priority, wake_at) WHERE state = 'QUEUED';
CREATE INDEX run_delayed ON run (wake_at) WHERE state = 'QUEUED';
CREATE INDEX run_wake ON run (wake_at) WHERE state <> 'QUEUED' AND wake_at IS NOT NULL;
CREATE INDEX run_running ON run (tenant, agent) WHERE state = 'RUNNING';

-- Whose turn it is. Who claims for a tenant locks its row, so that counts of what runs are exact.
CREATE TABLE tenant_turn (
    tenant text PRIMARY KEY,
    served_at timestamptz NOT NULL DEFAULT '-infinity'
);

-- Due runs in the order in which workers of a pool are to take them, `most` at most: first those of the tenant of which
-- the fewest run, of equal ones the one that was served longest ago; within a tenant by priority, then by time. Runs
-- that wait for an older one of their session, or that would exceed a bound, are left out. `readable`: the newest
-- version of a journal that the worker knows. `tenants`: only these.
-- What it costs grows with the number of agents that have queued runs, not with the number of runs.
CREATE FUNCTION next_runs(pool text, readable int, most int, tenant_concurrency int, tenants text[] DEFAULT NULL)
RETURNS TABLE (run_id text, tenant text) LANGUAGE sql STABLE AS $$
    WITH RECURSIVE agent AS (
        (SELECT run.tenant, run.agent FROM run
            WHERE state = 'QUEUED' AND worker_pool = pool ORDER BY run.tenant, run.agent LIMIT 1)
        UNION ALL
        SELECT next.tenant, next.agent FROM agent CROSS JOIN LATERAL (
            SELECT run.tenant, run.agent FROM run
            WHERE state = 'QUEUED' AND worker_pool = pool AND (run.tenant, run.agent) > (agent.tenant, agent.agent)
            ORDER BY run.tenant, run.agent LIMIT 1) AS next
    ),
    wanted AS (SELECT * FROM agent WHERE tenants IS NULL OR agent.tenant = ANY (tenants)),
    busy AS (
        SELECT run.tenant, run.agent, count(*) AS running FROM run
        WHERE state = 'RUNNING' AND run.tenant IN (SELECT wanted.tenant FROM wanted) GROUP BY run.tenant, run.agent
    ),
    candidate AS (
        SELECT wanted.tenant, due.*, coalesce(busy.running, 0) + row_number() OVER (
            PARTITION BY wanted.tenant, wanted.agent ORDER BY due.priority DESC, due.wake_at) AS of_agent
        FROM wanted LEFT JOIN busy USING (tenant, agent)
        CROSS JOIN LATERAL (
            SELECT ready.* FROM generate_series(9, 0, -1) AS level CROSS JOIN LATERAL (
                SELECT run.run_id, run.priority, run.wake_at, run.agent_concurrency FROM run
                WHERE state = 'QUEUED' AND worker_pool = pool AND run.tenant = wanted.tenant
                    AND run.agent = wanted.agent AND run.priority = level AND run.wake_at <= now()
                    AND journal_version <= readable
                    AND (session_id = '' OR session_policy = 'refuse' OR NOT EXISTS (
                        SELECT FROM run AS older WHERE older.tenant = run.tenant AND older.session_id = run.session_id
                            AND older.session_id <> '' AND older.end_time IS NULL AND older.run_id < run.run_id
                            AND older.root_run_id <> run.root_run_id))
                ORDER BY run.wake_at LIMIT most) AS ready
            LIMIT most) AS due
    ),
    of_tenant AS (
        SELECT candidate.run_id, candidate.tenant, coalesce((
                SELECT sum(busy.running) FROM busy WHERE busy.tenant = candidate.tenant), 0) + row_number() OVER (
            PARTITION BY candidate.tenant ORDER BY candidate.priority DESC, candidate.wake_at) AS running
        FROM candidate WHERE agent_concurrency IS NULL OR of_agent <= agent_concurrency
    )
    SELECT of_tenant.run_id, of_tenant.tenant FROM of_tenant LEFT JOIN tenant_turn AS turn USING (tenant)
    WHERE tenant_concurrency = 0 OR running <= tenant_concurrency
    ORDER BY running, turn.served_at NULLS FIRST, of_tenant.tenant LIMIT most
$$;

-- Leases up to `most` due runs to `owner` for some seconds. Answers with the runs, who held them before, and since when
-- they were due.
CREATE FUNCTION claim_runs(
    owner text, seconds float8, pool text, readable int, most int, tenant_concurrency int
) RETURNS TABLE (run_id text, previous_owner text, due timestamptz) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    served text[];
BEGIN
    SELECT array_agg(DISTINCT next.tenant) INTO served FROM next_runs(pool, readable, most, tenant_concurrency) AS next;
    IF served IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO tenant_turn (tenant) SELECT name FROM unnest(served) AS name
        WHERE NOT EXISTS (SELECT FROM tenant_turn WHERE tenant_turn.tenant = name) ORDER BY name ON CONFLICT DO NOTHING;
    PERFORM FROM tenant_turn WHERE tenant = ANY (served) ORDER BY tenant FOR UPDATE;
    -- Counted again, now that nobody else claims for these tenants.
    RETURN QUERY WITH chosen AS (
        SELECT run.run_id, run.lease_owner, run.wake_at, run.tenant FROM run
        WHERE run.run_id IN (SELECT next.run_id FROM next_runs(pool, readable, most, tenant_concurrency, served) AS next)
            AND run.state = 'QUEUED'
        FOR NO KEY UPDATE SKIP LOCKED
    ), turn AS (
        UPDATE tenant_turn SET served_at = clock_timestamp() WHERE tenant IN (SELECT chosen.tenant FROM chosen)
    )
    UPDATE run SET state = 'RUNNING', lease_owner = owner, lease_epoch = lease_epoch + 1,
        wake_at = now() + make_interval(secs => seconds)
    FROM chosen WHERE run.run_id = chosen.run_id
    RETURNING run.run_id, chosen.lease_owner, chosen.wake_at;
END
$$;
