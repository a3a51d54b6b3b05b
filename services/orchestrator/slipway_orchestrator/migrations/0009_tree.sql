-- What the root of a tree of runs lets all of them use together. What they used stands in their rows.
CREATE TABLE run_tree (
    root_run_id text PRIMARY KEY,
    steps bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_usd numeric NOT NULL
);
CREATE INDEX run_root ON run (root_run_id) WHERE depth > 0;
