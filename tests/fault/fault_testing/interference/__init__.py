"""What an operator, a script of theirs or a network does to servers that run: nothing is dead, nothing is as it was."""

from collections.abc import Callable

from fault_testing.interference import brokers, databases, identity, network, stores
from fault_testing.outages import Outages

INTERFERENCES: dict[str, tuple[Callable[[Outages], None], ...]] = {
    "postgres": (
        databases.terminate_backends,
        databases.refuse_writes,
        databases.restart_as_standby,
        databases.refuse_connections,
        databases.change_password,
        databases.cancel_statements,
        databases.lock_tables,
        network.frozen("postgres"),
        network.through("postgres", "black-hole"),
        network.through("postgres", "lose-answers"),
    ),
    "redis": (
        stores.flush_redis,
        stores.fill_redis,
        stores.make_redis_a_replica,
        stores.restart_redis_empty,
        network.frozen("redis"),
    ),
    "bus": (
        brokers.purge_queues,
        brokers.delete_queues,
        brokers.delete_exchanges,
        brokers.declare_otherwise,
        brokers.close_connections,
        brokers.take_permissions,
        brokers.change_password,
        brokers.delete_vhost,
        brokers.block_publishers,
        network.frozen("bus"),
        network.through("bus", "black-hole"),
        network.through("bus", "lose-answers"),
        network.slow,
    ),
    "weaviate": (
        stores.restart_weaviate,
        stores.make_index_read_only,
        stores.drop_index,
        network.frozen("weaviate"),
    ),
    "objects": (stores.take_the_bucket, network.frozen("objects"), network.through("objects", "http-503")),
    "identity": (identity.rotate_keys, identity.import_the_realm_again, network.frozen("identity")),
}
"""By the server to which it is done."""
