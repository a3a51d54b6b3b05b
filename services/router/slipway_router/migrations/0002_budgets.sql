-- Budgets, what attempts hold of them, and the two statements that move money: each commits by itself, so that a frozen
-- router holds no lock on a counter.

ALTER TABLE model_usage ADD COLUMN root_run_id text NOT NULL DEFAULT '';
ALTER TABLE model_usage ADD COLUMN person text NOT NULL DEFAULT '';
ALTER TABLE model_usage ADD COLUMN cache_write_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0);
ALTER TABLE model_usage ADD COLUMN image_tokens bigint NOT NULL DEFAULT 0 CHECK (image_tokens >= 0);
-- Answered from the tenant's cache: nothing was bought.
ALTER TABLE model_usage ADD COLUMN cached boolean NOT NULL DEFAULT false;
-- How the model was chosen: decision.py.
ALTER TABLE model_usage ADD COLUMN decision jsonb;
-- A call that is written twice (the answer of the first commit was lost) is written once.
CREATE UNIQUE INDEX model_usage_event ON model_usage (event_id);

CREATE TABLE budget (
    budget_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    name text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('tenant', 'agent', 'user', 'key', 'run')),
    -- Which agent, user, key or run; empty: each of them by itself.
    scope_value text NOT NULL,
    period text NOT NULL CHECK (period IN ('day', 'month', 'total')),
    -- Never exceeded, but by what a provider uses beyond the maximum asked for; NULL: only the soft limit warns.
    limit_usd numeric CHECK (limit_usd >= 0),
    soft_limit_usd numeric CHECK (soft_limit_usd >= 0),
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant, name)
);

-- One for each budget, each value of its scope and each period that had calls. Key 0: a run's own limit.
CREATE TABLE budget_counter (
    counter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_key bigint NOT NULL,
    tenant text NOT NULL,
    value text NOT NULL,
    period_start date NOT NULL,
    reserved numeric NOT NULL DEFAULT 0,
    spent numeric NOT NULL DEFAULT 0,
    update_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (budget_key, tenant, value, period_start)
) WITH (fillfactor = 50);

-- Counters whose soft limit was told of. A table of its own: the event is written while a client is waited for.
CREATE TABLE budget_warning (
    counter_id bigint PRIMARY KEY,
    warn_time timestamptz NOT NULL DEFAULT now()
);

-- Replicas that live; what a dead one held is an orphan.
CREATE TABLE router_instance (
    instance uuid PRIMARY KEY,
    seen_time timestamptz NOT NULL DEFAULT now()
);

-- What one attempt at one model holds, from before it is sent until its call is in model_usage.
CREATE TABLE reservation (
    reservation_id uuid PRIMARY KEY,
    call_id uuid NOT NULL,
    instance uuid NOT NULL,
    tenant text NOT NULL,
    request_id text NOT NULL,
    -- reserved: not sent yet; dispatched: may have been sent; settled: the attempt has ended, its call goes on;
    -- done: the call is in model_usage; expired: an orphan whose call was written with the worst case.
    state text NOT NULL CHECK (state IN ('reserved', 'dispatched', 'settled', 'done', 'expired')),
    worst_usd numeric NOT NULL CHECK (worst_usd >= 0),
    cost_usd numeric NOT NULL DEFAULT 0,
    counters bigint[] NOT NULL,
    -- What the counters contain of this row: `held` in reserved, `counted` in spent.
    held_usd numeric NOT NULL,
    counted_usd numeric NOT NULL DEFAULT 0,
    -- What is needed to write the call without the router that made it.
    call jsonb NOT NULL,
    orphan_event_id text,
    create_time timestamptz NOT NULL DEFAULT now(),
    expire_time timestamptz NOT NULL
);
CREATE INDEX reservation_call ON reservation (call_id);
CREATE INDEX reservation_request ON reservation (tenant, request_id);

-- The budgets that a call counts towards, with the limit that holds for it.
CREATE FUNCTION router_budgets_of(
    p_tenant text, p_agent text, p_person text, p_key text, p_root_run text, p_run_limit numeric
) RETURNS TABLE (budget_key bigint, name text, scope text, period text, value text, period_start date,
                 limit_usd numeric) LANGUAGE sql STABLE AS $$
    SELECT b.budget_key, b.name, b.scope, b.period, v.value,
           CASE b.period WHEN 'day' THEN date_trunc('day', now() AT TIME ZONE 'UTC')::date
                         WHEN 'month' THEN date_trunc('month', now() AT TIME ZONE 'UTC')::date
                         ELSE date '1970-01-01' END,
           b.limit_usd
    FROM budget b,
         LATERAL (SELECT CASE b.scope WHEN 'tenant' THEN p_tenant WHEN 'agent' THEN p_agent WHEN 'user' THEN p_person
                                      WHEN 'key' THEN p_key ELSE p_root_run END AS value) v
    WHERE b.tenant = p_tenant AND v.value <> '' AND (b.scope_value = '' OR b.scope_value = v.value)
    UNION ALL
    SELECT 0, '', 'run', 'total', p_root_run, date '1970-01-01', p_run_limit
    WHERE p_run_limit IS NOT NULL AND p_root_run <> ''
$$;

-- Bring the counters up to what their reservations say: `held` leaves reserved, the difference between cost and
-- `counted` goes to spent. Does nothing the second time. Answers with counters that have reached a soft limit and of
-- which nobody was told.
CREATE FUNCTION router_count(p_ids uuid[]) RETURNS TABLE (counter_id bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    touched bigint[];
BEGIN
    PERFORM 1 FROM reservation WHERE reservation_id = ANY(p_ids) ORDER BY reservation_id FOR UPDATE;
    SELECT array_agg(DISTINCT c.id) INTO touched
    FROM reservation r, unnest(r.counters) AS c(id)
    WHERE r.reservation_id = ANY(p_ids) AND r.state IN ('settled', 'done', 'expired');
    IF touched IS NOT NULL THEN
        PERFORM 1 FROM budget_counter WHERE counter_id = ANY(touched) ORDER BY counter_id FOR UPDATE;
        UPDATE budget_counter b
        SET reserved = b.reserved - d.held, spent = b.spent + d.cost, update_time = now()
        FROM (SELECT c.id, sum(r.held_usd) AS held, sum(r.cost_usd - r.counted_usd) AS cost
              FROM reservation r, unnest(r.counters) AS c(id)
              WHERE r.reservation_id = ANY(p_ids) AND r.state IN ('settled', 'done', 'expired')
              GROUP BY c.id) d
        WHERE b.counter_id = d.id AND (d.held <> 0 OR d.cost <> 0);
    END IF;
    UPDATE reservation SET held_usd = 0, counted_usd = cost_usd
    WHERE reservation_id = ANY(p_ids) AND state IN ('settled', 'expired');
    DELETE FROM reservation WHERE reservation_id = ANY(p_ids) AND state = 'done';
    RETURN QUERY
        SELECT b.counter_id FROM budget_counter b JOIN budget USING (budget_key)
        WHERE b.counter_id = ANY(touched) AND b.spent >= budget.soft_limit_usd
          AND NOT EXISTS (SELECT FROM budget_warning w WHERE w.counter_id = b.counter_id);
END
$$;

-- Reserve the worst case of attempts, in order, each for itself; the arrays have one element for each attempt, p_ended
-- and p_ended_cost one for each earlier attempt of their calls that has ended. A refused attempt holds nothing: its
-- element of the answer says which budget refused it. One that is held already (the answer of an earlier try was lost)
-- is accepted.
CREATE FUNCTION router_reserve(
    p_instance uuid, p_id uuid[], p_call_id uuid[], p_tenant text[], p_request_id text[], p_agent text[],
    p_person text[], p_key text[], p_root_run text[], p_run_limit numeric[], p_worst numeric[], p_state text[],
    p_seconds float8[], p_call jsonb[], p_ended uuid[], p_ended_cost numeric[]
) RETURNS jsonb[] LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    refusals jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(p_id)]);
    counters text[] := array_fill('{}'::text, ARRAY[cardinality(p_id)]);
    -- Attempt, counter and limit of each budget that counts for an attempt.
    m_attempt int[];
    m_counter bigint[];
    m_limit numeric[];
    -- Counters that are locked: what is spent and reserved of each, and what is added here.
    c_id bigint[];
    c_total numeric[];
    c_added numeric[];
    held uuid[];
    pos int := 1;
    begun int;
    place int;
    is_held boolean;
    refused bigint;
    refusal jsonb;
BEGIN
    IF cardinality(p_ended) > 0 THEN
        UPDATE reservation r SET state = 'settled', cost_usd = e.cost
        FROM unnest(p_ended, p_ended_cost) AS e(id, cost)
        WHERE r.reservation_id = e.id AND r.state IN ('reserved', 'dispatched');
    END IF;

    IF EXISTS (SELECT FROM budget WHERE tenant = ANY(p_tenant)) OR num_nonnulls(VARIADIC p_run_limit) > 0 THEN
        -- New counters first, then locks in the order of their ids, those of ended attempts among them: no deadlock.
        INSERT INTO budget_counter (budget_key, tenant, value, period_start)
        SELECT DISTINCT m.budget_key, q.tenant, m.value, m.period_start
        FROM unnest(p_tenant, p_agent, p_person, p_key, p_root_run, p_run_limit)
                 AS q(tenant, agent, person, key, root_run, run_limit),
             router_budgets_of(q.tenant, q.agent, q.person, q.key, q.root_run, q.run_limit) m
        WHERE NOT EXISTS (SELECT FROM budget_counter c WHERE (c.budget_key, c.tenant, c.value, c.period_start)
                                                           = (m.budget_key, q.tenant, m.value, m.period_start))
        ORDER BY 1, 2, 3, 4
        ON CONFLICT DO NOTHING;
        SELECT array_agg(k.attempt ORDER BY k.attempt, k.counter_id),
               array_agg(k.counter_id ORDER BY k.attempt, k.counter_id),
               array_agg(k.limit_usd ORDER BY k.attempt, k.counter_id)
        INTO m_attempt, m_counter, m_limit
        FROM (SELECT q.attempt::int, c.counter_id, m.limit_usd
              FROM unnest(p_tenant, p_agent, p_person, p_key, p_root_run, p_run_limit) WITH ORDINALITY
                       AS q(tenant, agent, person, key, root_run, run_limit, attempt),
                   router_budgets_of(q.tenant, q.agent, q.person, q.key, q.root_run, q.run_limit) m
                   JOIN budget_counter c USING (budget_key, value, period_start)
              WHERE c.tenant = q.tenant) k;
        PERFORM 1 FROM budget_counter c
        WHERE c.counter_id = ANY(m_counter)
           OR c.counter_id IN (SELECT unnest(r.counters) FROM reservation r WHERE r.reservation_id = ANY(p_ended))
        ORDER BY c.counter_id FOR UPDATE;
    END IF;
    IF cardinality(p_ended) > 0 THEN
        PERFORM router_count(p_ended);
    END IF;

    IF m_attempt IS NOT NULL THEN
        SELECT array_agg(c.counter_id), array_agg(c.spent + c.reserved), array_agg(0::numeric)
        INTO c_id, c_total, c_added
        FROM budget_counter c WHERE c.counter_id = ANY(m_counter);
        held := ARRAY(SELECT r.reservation_id FROM reservation r WHERE r.reservation_id = ANY(p_id));
        FOR i IN 1 .. cardinality(p_id) LOOP
            begun := pos;
            refused := NULL;
            is_held := p_id[i] = ANY(held);
            WHILE m_attempt[pos] = i LOOP
                place := array_position(c_id, m_counter[pos]);
                IF refused IS NULL AND NOT is_held AND p_worst[i] > 0
                   AND c_total[place] + c_added[place] + p_worst[i] > m_limit[pos] THEN
                    refused := m_counter[pos];
                    SELECT jsonb_build_object(
                               'name', coalesce(b.name, ''), 'scope', coalesce(b.scope, 'run'), 'value', c.value,
                               'period', coalesce(b.period, 'total'), 'limit', m_limit[pos]::text,
                               'spent', c.spent::text, 'reserved', (c.reserved + c_added[place])::text,
                               'resets', CASE b.period WHEN 'day' THEN c.period_start + 1
                                                       WHEN 'month' THEN (c.period_start + interval '1 month')::date END)
                    INTO refusal
                    FROM budget_counter c LEFT JOIN budget b USING (budget_key) WHERE c.counter_id = refused;
                    refusals[i] := refusal;
                END IF;
                pos := pos + 1;
            END LOOP;
            IF refused IS NULL AND NOT is_held THEN
                counters[i] := (m_counter[begun : pos - 1])::text;
                FOR k IN begun .. pos - 1 LOOP
                    place := array_position(c_id, m_counter[k]);
                    c_added[place] := c_added[place] + p_worst[i];
                END LOOP;
            END IF;
        END LOOP;
        UPDATE budget_counter c SET reserved = c.reserved + a.added, update_time = now()
        FROM unnest(c_id, c_added) AS a(id, added) WHERE c.counter_id = a.id AND a.added > 0;
    END IF;

    INSERT INTO reservation (reservation_id, call_id, instance, tenant, request_id, state, worst_usd, counters, held_usd,
                             call, expire_time)
    SELECT q.id, q.call_id, p_instance, q.tenant, q.request_id, q.state, q.worst, q.counters::bigint[], q.worst, q.call,
           now() + make_interval(secs => q.seconds)
    FROM unnest(p_id, p_call_id, p_tenant, p_request_id, p_state, p_worst, counters, p_call, p_seconds, refusals)
             AS q(id, call_id, tenant, request_id, state, worst, counters, call, seconds, refusal)
    WHERE q.refusal IS NULL
    ON CONFLICT (reservation_id) DO NOTHING;
    RETURN refusals;
END
$$;

-- Write calls that have ended, each once, and what their attempts cost. Members of p_calls: usage (a row of
-- model_usage), holds: [{id, cost, state}] with state done, or expired for an orphan. Answers with the events of the
-- calls that were not written before, and with the reservations that router_count has to be told of: that is a
-- statement of its own, so that counters are never locked while a client is waited for.
CREATE FUNCTION router_settle(p_calls jsonb, OUT events text[], OUT uncounted uuid[]) LANGUAGE plpgsql AS $$
DECLARE
    replaced text[];
BEGIN
    -- A router that was taken for dead and was not: its own word replaces the orphan's worst case.
    SELECT array_agg(x.orphan_event_id) INTO replaced
    FROM jsonb_to_recordset(jsonb_path_query_array(p_calls, '$[*].holds[*]')) AS h(id uuid, state text)
         JOIN reservation x ON x.reservation_id = h.id
    WHERE x.state = 'expired' AND h.state = 'done';
    IF replaced IS NOT NULL THEN
        DELETE FROM model_usage u WHERE u.event_id = ANY(replaced);
    END IF;

    WITH written AS (
        INSERT INTO model_usage (
            tenant, request_id, end_time, operation, subject, act, run_id, task, requested_model, route,
            catalogue_model, returned_model, provider, input_tokens, cached_input_tokens, output_tokens,
            reasoning_tokens, cost_usd, estimated, attempts, outcome, latency_ms, labels, event_id, root_run_id, person,
            cache_write_tokens, image_tokens, cached, decision)
        SELECT u.tenant, u.request_id, u.end_time, u.operation, u.subject, u.act, u.run_id, u.task, u.requested_model,
               u.route, u.catalogue_model, u.returned_model, u.provider, u.input_tokens, u.cached_input_tokens,
               u.output_tokens, u.reasoning_tokens, u.cost_usd, u.estimated, u.attempts, u.outcome, u.latency_ms,
               u.labels, u.event_id, u.root_run_id, u.person, u.cache_write_tokens, u.image_tokens, u.cached,
               u.decision
        FROM jsonb_array_elements(p_calls) c, jsonb_populate_record(NULL::model_usage, c -> 'usage') u
        ON CONFLICT (event_id) DO NOTHING
        RETURNING model_usage.event_id)
    SELECT coalesce(array_agg(written.event_id), '{}') INTO events FROM written;

    WITH closed AS (
        UPDATE reservation x
        SET state = h.state, cost_usd = h.cost,
            orphan_event_id = CASE h.state WHEN 'expired' THEN h.event_id END
        FROM (SELECT (a ->> 'id')::uuid AS id, (a ->> 'cost')::numeric AS cost, a ->> 'state' AS state,
                     c -> 'usage' ->> 'event_id' AS event_id
              FROM jsonb_array_elements(p_calls) c, jsonb_array_elements(c -> 'holds') a) h
        WHERE x.reservation_id = h.id
        RETURNING x.reservation_id, x.counters)
    SELECT coalesce(array_agg(closed.reservation_id) FILTER (WHERE closed.counters <> '{}'), '{}') INTO uncounted
    FROM closed;
    DELETE FROM reservation x
    USING jsonb_to_recordset(jsonb_path_query_array(p_calls, '$[*].holds[*]')) AS h(id uuid)
    WHERE x.reservation_id = h.id AND x.state = 'done' AND x.counters = '{}';
END
$$;
