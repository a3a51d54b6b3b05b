"""`slipway audit …`: evidence, and its verification with no server at all."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import USAGE, console, errors, fail, print_json
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="The tamper-evident log and its evidence.", no_args_is_help=True)

_Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]


@app.command()
@at_gateway
def export(client: "Client", run_id: Annotated[str, typer.Argument(help="Id of the run.")], output: _Output) -> None:
    """Write the evidence bundle of a run to a file."""
    bundle = client.audit.evidence(run_id)
    _write(output, bundle)
    console.print(f"{output}: {len(bundle)} bytes")


@app.command()
@at_gateway
def key(client: "Client", output: _Output) -> None:
    """Write the public verifier key of the log to a file; better still, get it from somebody you trust."""
    verifier_key = client.audit.checkpoint().verifier_key
    _write(output, (verifier_key + "\n").encode())
    console.print(verifier_key, markup=False, highlight=False, soft_wrap=True)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The evidence bundle.", exists=True, dir_okay=False)],
    key_file: Annotated[
        Path,
        typer.Option(
            "--key",
            help="File with the log's verifier key; of several, a line each, its own.",
            exists=True,
            dir_okay=False,
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle offline. Exit code 0: all holds; 1: something does not; 3: it holds so far but is incomplete."""
    from slipway_evidence.note import NoteError, VerifierKey
    from slipway_evidence.verify import verify as verify_bundle

    try:
        verifiers = [VerifierKey.parse(line) for line in key_file.read_text().strip().splitlines() or [""]]
    except (NoteError, UnicodeDecodeError) as error:
        fail(f"{key_file} holds no verifier key: {error}", USAGE)
    # A rotated log has had several keys, and each bundle is verified by the one of its time.
    reports = [verify_bundle(file.read_bytes(), verifier) for verifier in verifiers]
    by_its_key = (one for one in reports if one.finding is None or one.finding.code != "checkpoint_signature")
    report = next(by_its_key, reports[0])
    finding, summary = report.finding, report.summary
    if as_json:
        print_json(
            {
                "outcome": report.outcome.value,
                "finding": finding and {"code": finding.code, "message": finding.message, "position": finding.position},
                "summary": summary
                and {
                    "tenant": summary.tenant,
                    "run_id": summary.run_id,
                    "entries": summary.entries,
                    "journal_events": summary.journal_events,
                    "records": summary.records,
                    "decisions": summary.decisions,
                    "erased": list(summary.erased),
                    "tree_size": summary.head.size,
                },
            }
        )
    else:
        if finding is not None:
            errors.print(f"{finding.code} at {finding.position or '/'}: {finding.message}", style="red", markup=False)
        if summary is not None:
            console.print(
                f"{report.outcome.value}: {summary.run_id} of {summary.tenant}, {summary.entries} events verified "
                f"({summary.journal_events} of the journal, {summary.records} records, {summary.decisions} decisions) "
                f"in a log of {summary.head.size}",
                highlight=False,
                soft_wrap=True,
            )
    raise typer.Exit(report.exit_status)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", USAGE)
