"""`slipway models …`: what there is, why a route was chosen, how two compare."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import USAGE, console, fail, print_json, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client
    from slipway_client.model_catalogue import RouteDecision

app = typer.Typer(help="Models and routes of the catalogue.", no_args_is_help=True)

_COLUMNS = (
    "id", "owned_by", "slipway.kind", "slipway.health", "slipway.quality", "slipway.regions", "slipway.latency_ms",
    "slipway.input_price_usd_per_million", "slipway.output_price_usd_per_million", "slipway.candidates",
)  # fmt: skip
_CANDIDATES = ("model", "eligible", "score", "expected_cost_usd", "latency_ms", "quality", "reason")


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the models and routes that you may use."""
    show_many(client.models.list(), _COLUMNS, as_json=as_json, key="models")


@app.command()
@at_gateway
def explain(
    client: "Client",
    model: Annotated[str, typer.Argument(help="A model or route; left out: by task, or the default route.")] = "",
    text: Annotated[str, typer.Option(help="What the request says.")] = "",
    task: Annotated[str, typer.Option(help="The task it states.")] = "",
    quality: Annotated[str | None, typer.Option(help="economy, standard or premium: at least.")] = None,
    max_cost_usd: Annotated[str | None, typer.Option(metavar="USD", help="Ceiling for its cost.")] = None,
    max_latency_ms: Annotated[int | None, typer.Option(min=1, help="Longest wait that will do.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="Region demanded; may be repeated.")] = None,
    data_class: Annotated[list[str] | None, typer.Option(help="Class of data in it; may be repeated.")] = None,
    capability: Annotated[list[str] | None, typer.Option(help="Capability needed; may be repeated.")] = None,
    session_id: Annotated[str, typer.Option("--session", help="Session that it belongs to.")] = "",
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Explain this call instead: its x-slipway-request-id.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which model a request would go to, and why; or why one went where it went."""
    if request is not None:
        sent = client.models.decision(request)
        if as_json:
            print_json(sent.model_dump(mode="json"))
            return
        _show(sent.decision)
        console.print()
        show_many(sent.attempts, ("model", "outcome", "status", "latency_ms", "hedge"), as_json=False, key="attempts")
        return
    decision = client.models.explain(
        model=model,
        text=text,
        task=task,
        quality=quality,
        max_cost_usd=_dollars(max_cost_usd) if max_cost_usd is not None else None,
        max_latency_ms=max_latency_ms,
        regions=region or None,
        data_classes=data_class or (),
        capabilities=capability or (),
        session_id=session_id,
    )
    if as_json:
        print_json(decision.model_dump(mode="json"))
        return
    _show(decision)


@app.command()
@at_gateway
def compare(
    client: "Client",
    against: Annotated[str, typer.Argument(help="Model or route that answers anew.")],
    route: Annotated[str, typer.Option(help="Only requests recorded on this route.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Most requests, the newest first.")] = 20,
    max_cost_usd: Annotated[str, typer.Option(metavar="USD", help="Ceiling for all replays together.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Send recorded requests to another model or route, and compare cost, time and answers."""
    compared = client.models.compare(against, recorded_on=route, limit=limit, max_cost_usd=_dollars(max_cost_usd))
    if as_json:
        print_json(compared.model_dump(mode="json"))
        return
    columns = (
        "recorded.request_id", "recorded.catalogue_model", "recorded.latency_ms", "recorded.usage.cost_usd",
        "replayed.catalogue_model", "replayed.outcome", "replayed.latency_ms", "replayed.usage.cost_usd",
        "text_similarity", "same_tool_calls",
    )  # fmt: skip
    show_many(compared.calls, columns, as_json=False, key="calls")
    for side in (compared.recorded, compared.replayed):
        console.print()
        console.print("[bold]recorded[/]" if side is compared.recorded else "[bold]replayed[/]")
        show_one(side, as_json=False)
    if compared.note:
        console.print(f"\n{compared.note}", markup=False)


def _show(decision: "RouteDecision") -> None:
    show_one(decision.model_copy(update={"candidates": []}), as_json=False)
    console.print()
    show_many(decision.candidates, _CANDIDATES, as_json=False, key="candidates")


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        fail(f"{text} is no amount of dollars", USAGE)
    return amount
