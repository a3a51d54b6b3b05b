"""The tools service: `python -m slipway_tools.main`."""

import dataclasses
import logging

from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis import postgres, retention, service, telemetry
from slipway_chassis.bus import open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.effects import EffectLedger
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.preflight import look_before_start
from slipway_chassis.readiness import Readiness
from slipway_chassis.secret_file import InvalidSecrets, SecretFile
from slipway_chassis.settings import load_settings
from slipway_chassis.unusable import SettingUnusable

from slipway_tools import python_tool
from slipway_tools.address import AllowList
from slipway_tools.cancellation import Cancellation
from slipway_tools.egress.link import Egress, EgressLog
from slipway_tools.egress.proxy import Proxy
from slipway_tools.egress.rules import EgressRules
from slipway_tools.gate import Gate
from slipway_tools.http_tool import HttpCaller
from slipway_tools.invocation import Invoker
from slipway_tools.mcp.caller import McpCaller
from slipway_tools.mcp.http_peer import HttpPeer
from slipway_tools.mcp.log import McpLog
from slipway_tools.mcp.oauth.logins import McpLogins
from slipway_tools.mcp.oauth.web import OAuthWeb
from slipway_tools.mcp.servers import McpServers
from slipway_tools.mcp.stdio_peer import StdioPeer
from slipway_tools.memory_files import MemoryFiles
from slipway_tools.migrate import SCHEMA
from slipway_tools.reach import Reaches
from slipway_tools.record import Recorder
from slipway_tools.registry import Registry
from slipway_tools.run_ends import RunEnds
from slipway_tools.sandboxes import Sandboxes
from slipway_tools.servicer import ToolsServicer
from slipway_tools.settings import ToolsSettings
from slipway_tools.sql_tool import SqlCaller


async def serve(settings: ToolsSettings) -> None:
    """Wire the service and serve until it is told to stop."""
    telemetry.setup("tools", settings.otlp_endpoint, settings.log_level)
    # The MCP client logs what servers send it; what came of a call is in its record.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    try:
        secrets = SecretFile(settings.secrets_file)
    except InvalidSecrets as error:
        raise SettingUnusable(f"SLIPWAY_TOOLS_SECRETS_FILE: {error}") from None
    await look_before_start(settings, SCHEMA, bus=settings.bus_url)
    pool = await postgres.open_pool(settings.database_url.get_secret_value())
    await SCHEMA.prepare(pool, settings.migrations)
    bus = await open_bus(settings.bus_url.get_secret_value())
    keys = SubjectKeys(pool, settings.data_key.get_secret_value())
    outbox = Outbox(pool, bus, keys)
    evidence = Evidence("tools", outbox)
    ledger = EffectLedger(pool, keys)
    limits, choice = settings.limits, settings.choice
    regions = tuple(sorted(settings.regions))
    builtin = {
        name: dataclasses.replace(declaration, regions=regions)
        for name, declaration in python_tool.declarations(limits, choice.libraries()).items()
    }
    allowed = AllowList.parse(settings.http_allow)
    http = HttpCaller(allowed, secrets)
    policy = PolicyEngine(settings.policy_dir)
    files = MemoryFiles(settings.memory_target, settings.tls)
    rules = EgressRules(settings.egress_file)
    egress = Egress(rules, Proxy(allowed, secrets), EgressLog(pool, evidence))
    sandboxes = Sandboxes(choice, files, egress)
    sql = SqlCaller(settings.memory_target, settings.tls)
    registry = Registry(pool, policy, evidence, http, builtin, Reaches(rules), sql)
    logins = McpLogins.opened(pool, keys, secrets, OAuthWeb(allowed), McpLog(evidence))
    http_peer = HttpPeer(allowed, secrets, logins.vault)
    gate = Gate(settings.http_calls, settings.http_queue)
    peers = {"http": http_peer, "stdio": StdioPeer(sandboxes, files.fetch)}
    servers = McpServers(pool, policy, evidence, http_peer, peers, gate, logins)
    invoker = Invoker(
        registry,
        ledger,
        Recorder(pool, evidence),
        http,
        sandboxes,
        files.fetch,
        McpCaller(servers),
        sql,
        limits=limits,
        gate=gate,
    )

    cancellation = Cancellation(ledger, bus)

    def servicers(server: object) -> list[str]:
        servicer = ToolsServicer(registry, invoker, servers, cancellation)
        tools_pb2_grpc.add_ToolsServiceServicer_to_server(servicer, server)  # pyright: ignore[reportArgumentType]
        return [tools_pb2.DESCRIPTOR.services_by_name["ToolsService"].full_name]

    async def database() -> None:
        await postgres.check_answers(pool)

    async def sweep() -> None:
        await retention.sweep(pool)

    async def stop() -> None:
        await ledger.drain(settings.shutdown_grace)
        await logins.vault.close()
        await sandboxes.close()
        await files.close()
        await sql.close()
        await bus.close()
        await postgres.close_pool(pool)

    await service.run_service(
        "tools",
        settings,
        servicers=servicers,
        background={
            "sandboxes": sandboxes.keep_open,
            "cancellations": cancellation.listen,
            "run-ends": RunEnds(bus, sandboxes.end_run).listen,
            "outbox": outbox.relay,
            "retention": sweep,
        },
        readiness=Readiness({"postgres": database, "sandbox": sandboxes.check}, {"bus": bus.ping}),
        on_stop=stop,
    )


def main() -> None:
    """Read the settings and run."""
    service.run(serve(load_settings(ToolsSettings)))


if __name__ == "__main__":
    main()
