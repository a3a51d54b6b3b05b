"""The journal's transaction by itself, from pgbench: fence and head, an event, its audit event.

Five round trips: BEGIN, the conditional UPDATE, two INSERTs, COMMIT. Rows are as large as ours.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from slipway_testkit.servers.postgres import PostgresServer

_SCHEMA = """
CREATE TABLE run (run_id text PRIMARY KEY, lease_epoch bigint NOT NULL, last_seq bigint NOT NULL, digest text,
    wake_at timestamptz) WITH (fillfactor = 70);
CREATE TABLE run_event (run_id text NOT NULL REFERENCES run, seq bigint NOT NULL, kind text, step_id text,
    epoch bigint, time timestamptz, data bytea, commitment text, PRIMARY KEY (run_id, seq));
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id text, topic text, headers jsonb,
    body bytea);
INSERT INTO run SELECT 'run_' || n, 1, 0, repeat('a', 64), now() FROM generate_series(0, 63) n;
"""
_SCRIPT = """
BEGIN;
UPDATE run SET last_seq = last_seq + 1, digest = repeat('b', 64) WHERE run_id = 'run_' || :client_id AND lease_epoch = 1
 RETURNING last_seq \\gset
INSERT INTO run_event VALUES ('run_' || :client_id, :last_seq, 'step.completed', 'step', 1, now(),
 decode(repeat('ab', 150), 'hex'), repeat('c', 64));
INSERT INTO outbox (message_id, topic, headers, body) VALUES ('aev_' || :last_seq, 'audit.events', '{}',
 decode(repeat('cd', 1000), 'hex'));
COMMIT;
"""


def transactions_per_second(server: PostgresServer, clients: int, seconds: int) -> float:
    """Transactions per second with so many clients, each on a run of its own."""
    url = server.create_database()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "journal.sql"
        script.write_text(_SCRIPT)
        environment = {**os.environ, "PGOPTIONS": "-c jit=off"}
        bin_dir = server.bin_dir
        subprocess.run([bin_dir / "psql", "-X", "-q", "-d", url, "-c", _SCHEMA], check=True, env=environment)
        command = [bin_dir / "pgbench", "-n", "-M", "prepared", "-f", script, "-c", str(clients), "-j", "2"]
        done = subprocess.run(
            [*command, "-T", str(seconds), url], check=True, capture_output=True, text=True, env=environment
        )
    server.drop_database(url)
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if found is None:
        raise RuntimeError(done.stdout)
    return float(found[1])
