"""Puts the data sources together."""

from __future__ import annotations

from slipway_chassis.policy import PolicyEngine
from slipway_chassis.secret_file import InvalidSecrets, SecretFile
from slipway_chassis.unusable import SettingUnusable

from slipway_memory.settings import MemorySettings
from slipway_memory.sources.address import Addresses
from slipway_memory.sources.databases import Bounds, Databases
from slipway_memory.sources.queries import Queries
from slipway_memory.sources.servicer import SourcesServicer
from slipway_memory.sources.sources import Sources
from slipway_memory.sources.store import SourceStore
from slipway_memory.transactions import Database


def governed_sources(
    settings: MemorySettings, database: Database, policy: PolicyEngine, databases: Databases
) -> SourcesServicer:
    """The data sources over their databases. Raises SettingUnusable for the file of secrets."""
    try:
        secrets = SecretFile(settings.secrets_file)
    except InvalidSecrets as error:
        raise SettingUnusable(f"SLIPWAY_MEMORY_SECRETS_FILE: {error}") from None
    addresses = Addresses(secrets, settings.source_urls_dir, settings.source_hosts)
    sources = Sources(SourceStore(database), policy, addresses)
    bounds = Bounds(settings.source_seconds, settings.source_rows, settings.source_bytes, settings.source_cost)
    queries = Queries(
        database, sources, policy, addresses, databases, bounds=bounds, tenant_queries=settings.source_queries
    )
    return SourcesServicer(sources, queries)
