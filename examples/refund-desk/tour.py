"""The tour: one governed agent run through all of Slipway, over public interfaces only.

Run by `make run` (or `slipway up --tour`) against the stack that it started. Ends with exit status 0 and the line
`tour: ok (…)`, or with 1 and the reason.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.tree import Tree
from slipway_cli import session
from slipway_cli.commands.knowledge import follow_indexing
from slipway_cli.supervisor.data_dir import read_state
from slipway_client import Approval, PermissionDeniedError, Run, RunEvent
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import verify

HERE = Path(__file__).resolve().parent
RECEIVED_ON = "2026-11-20"
console = Console(highlight=False, soft_wrap=True)


class TourFailedError(Exception):
    """Something is not as it must be."""


def expect(holds: bool, sentence: str) -> None:
    """Ends the tour with a sentence unless something holds."""
    if not holds:
        raise TourFailedError(sentence)


def chapter(title: str) -> None:
    """A heading."""
    console.print(f"\n[bold]{title}[/]")


def tell(text: str) -> None:
    """A line."""
    console.print(f"  {text}")


class Tour:
    """The four chapters, in order."""

    def __init__(self, data_dir: Path, ledger: Path) -> None:
        self._data_dir = data_dir
        self._ledger = ledger
        self._alice = session.connect(data_dir, "alice")
        self._bob = session.connect(data_dir, "bob")
        self._carol = session.connect(data_dir, "carol")
        self._events: list[RunEvent] = []

    def knowledge_and_agent(self) -> None:
        """Ingestion, then a version's way to production."""
        chapter("1. Knowledge and agent")
        self._alice.knowledge.put_collection("handbook", description="Northwind Kitchen: refunds, shipping, warranty")
        put = [
            self._alice.knowledge.put_document("handbook", file.name, file)
            for file in sorted((HERE / "handbook").iterdir())
        ]
        for document in follow_indexing(self._alice, put, seconds=60):
            expect(document.state == "READY", f"{document.document} was not indexed: {document.error}")
            tell(f"[green]indexed[/] {document.document}: “{escape(document.title)}”, {document.chunk_count} chunks")
        self._declare_ledger()
        definition = (HERE / "agent.yaml").read_text()
        version = self._alice.agents.put("refund-desk", definition)
        tell(f"[green]registered[/] refund-desk version {version.version}, {version.digest[:19]}…, by alice")
        if version.state in {"DRAFT", "REJECTED"}:
            self._alice.agents.submit("refund-desk", version.version)
            try:
                self._alice.agents.approve("refund-desk", version.version)
            except PermissionDeniedError as refused:
                tell(f"[yellow]refused[/] alice's own approval: {escape(refused.detail)}")
            else:
                raise TourFailedError("alice could approve her own version")
            version = self._bob.agents.approve("refund-desk", version.version, "reads well")
            tell("[green]approved[/] by bob")
        if not version.in_production:
            self._bob.agents.promote("refund-desk", version.version)
        tell(f"[green]in production[/] version {version.version}")

    def _declare_ledger(self) -> None:
        from ruamel.yaml import YAML

        declaration = YAML(typ="safe").load(HERE / "ledger-tool.yaml")
        declaration["http"]["url"] = f"http://127.0.0.1:{os.environ['SLIPWAY_LEDGER_PORT']}/bookings"
        self._alice.tools.put("ledger.post", declaration)
        tell("[green]declared[/] the tool ledger.post, its token by reference")

    def run(self) -> Run:
        """The run: parked at the gate, decided by bob; a worker is killed on the way."""
        chapter("2. The run")
        orders = self._alice.files.upload(HERE / "orders.csv")
        message = (HERE / "message.txt").read_text().strip()
        tell(f"[dim]customer:[/] {escape(message)}")
        started = self._alice.runs.start(
            "refund-desk",
            {"message": message, "order_id": "A-1042", "orders_file": orders.file_id, "received_on": RECEIVED_ON},
            labels={"tour": "yes"},
        )
        tell(f"[green]started[/] {started.run_id} by alice")
        killed = False
        for event in self._alice.runs.follow(started.run_id):
            if event.kind == "model.delta":
                if not killed:
                    killed = self._kill_worker()
                continue
            self._events.append(event)
            self._show(event)
            if event.kind == "step.completed" and not killed:
                # The model answered in one piece: any moment is as good.
                killed = self._kill_worker()
            if event.kind == "approval.requested":
                self._decide(started.run_id)
        expect(killed, "no worker was there to be killed")
        run = self._alice.runs.get(started.run_id)
        expect(run.state == "SUCCEEDED", f"the run ended {run.state}: {run.error and run.error.message}")
        sequence = [event.seq for event in self._events]
        expect(sequence == list(range(1, len(sequence) + 1)), f"the journal has a gap: {sequence}")
        bookings = [json.loads(line) for line in self._ledger.read_text().splitlines()]
        own = [booking for booking in bookings if booking["key"].startswith(started.run_id)]
        expect(len(own) == 1, f"the ledger holds {len(own)} bookings of this run, not one")
        tell(f"[green]booked[/] once: {own[0]['booking_id']}, {own[0]['amount']} USD")
        return run

    def _kill_worker(self) -> bool:
        """SIGKILL to an orchestrator worker. No event tells which one has the run, so it may be the other."""
        state = read_state(self._data_dir)
        processes = state.processes if state else []
        record = next((record for record in processes if record.name.startswith("worker-")), None)
        if record is None:
            return False
        process = psutil.Process(record.pid)
        expect(abs(process.create_time() - record.create_time) < 1, "the worker is gone already")
        process.send_signal(signal.SIGKILL)
        tell(f"[red]killed[/] {record.name} (pid {record.pid}) with SIGKILL, in the middle of its work")
        return True

    def _show(self, event: RunEvent) -> None:
        data = event.data or {}
        time_of_day = event.time.strftime("%H:%M:%S.%f")[:12] if event.time else ""
        notes: list[str] = []
        usage = data.get("usage") or {}
        if data.get("model"):
            notes.append(str(data["model"]))
        if usage.get("output_tokens"):
            notes.append(f"{usage.get('input_tokens', 0)}+{usage['output_tokens']} tokens")
        if float(usage.get("cost_usd") or 0):
            notes.append(f"${float(usage['cost_usd']):.6f}")
        if data.get("duration_ms") is not None:
            notes.append(f"{data['duration_ms']} ms")
        if data.get("attempt", 1) and int(data.get("attempt", 1)) > 1:
            notes.append(f"attempt {data['attempt']}")
        what = f"[cyan]{event.kind:<19}[/] {event.step_id or '':<8}"
        tell(f"[dim]{event.seq:>3} {time_of_day}[/] {what} [dim]{', '.join(notes)}[/]")

    def _decide(self, run_id: str) -> None:
        pending = next(iter(self._alice.approvals.list(state="pending", run_id=run_id)))
        try:
            self._alice.approvals.decide(pending, "approve")
        except PermissionDeniedError as refused:
            tell(f"[yellow]refused[/] alice's own approval: {escape(refused.detail)}")
        else:
            raise TourFailedError("alice could approve what she proposed")
        shown = self._bob.approvals.get(pending.approval_id)
        tell(f"bob sees: {shown.tool} {escape(json.dumps(shown.arguments))} [dim]{shown.arguments_digest[:19]}…[/]")
        decision = "approve"
        if os.environ.get("ASK") == "1" and sys.stdin.isatty():
            answer = console.input("  [bold]approve as bob? \\[Y/n][/] ")
            decision = "reject" if answer.strip().lower().startswith("n") else "approve"
        decided: Approval = self._bob.approvals.decide(shown, decision, message="checked against the order")
        tell(f"[green]{decided.state.lower()}[/] by bob")

    def answer(self, run: Run) -> None:
        """What the customer gets, with its sources and its cost."""
        chapter("3. The answer")
        console.print(Panel(escape(run.output["reply"]), title="reply", width=100), soft_wrap=False)
        for citation in run.output["citations"]:
            page = f", page {citation['page']}" if citation.get("page") else ""
            place = " › ".join([citation.get("title") or citation["document"], *citation.get("headings", [])])
            tell(f"[dim]source:[/] {escape(citation['document'])}: {escape(place)}{page}")
        usage = run.usage
        tell(f"refund {run.output['refund']} USD, paid: {run.output['paid']}")
        tell(f"{usage.steps} steps, {usage.input_tokens}+{usage.output_tokens} tokens, ${usage.cost_usd:.6f}")
        self._tree(run)

    def _tree(self, run: Run) -> None:
        tree = Tree(f"[bold]trace {run.trace_id}[/]")
        branches: dict[str, Tree] = {}
        for event in self._events:
            step = event.step_id
            if step is not None and step not in branches:
                branches[step] = tree.add(f"[cyan]{step}[/]")
            parent = tree if step is None else branches[step]
            data = event.data or {}
            duration = f" {data['duration_ms']} ms" if data.get("duration_ms") is not None else ""
            leaf = parent.add(f"{event.kind}[dim]{duration}[/]")
            for record in data.get("records") or []:
                leaf.add(f"[dim]{record['event_id']} {record['commitment'][:16]}…[/]")
        console.print(tree)

    def evidence(self, run: Run, folder: Path) -> int:
        """Exports the bundle and verifies it with the public key alone; then alters one byte."""
        chapter("4. The evidence")
        deadline = time.monotonic() + 30
        while True:
            bundle = self._carol.audit.evidence(run.run_id)
            key = VerifierKey.parse(self._carol.audit.checkpoint().verifier_key)
            report = verify(bundle, key)
            if report.ok or time.monotonic() > deadline:
                break
            # The last events are on their way to the log.
            time.sleep(0.5)
        summary = report.summary
        if not report.ok or summary is None:
            raise TourFailedError(f"the evidence does not hold: {report.finding and report.finding.message}")
        file = folder / f"{run.run_id}.evidence.json"
        file.write_bytes(bundle)
        (folder / "log.vkey").write_text(f"{key}\n")
        table = Table(box=None, show_header=False)
        table.add_row("bundle", f"{file} ({len(bundle)} bytes)")
        table.add_row("verified", f"{summary.entries} events in a log of {summary.head.size}")
        table.add_row("again", f"slipway audit verify {file} --key {folder / 'log.vkey'}")
        console.print(table)
        # One digit of what was paid.
        altered = re.sub(rb"(amount\W+)249", rb"\g<1>149", bundle, count=1)
        expect(altered != bundle, "the bundle does not hold the amount")
        finding = verify(altered, key).finding
        if finding is None:
            raise TourFailedError("an altered bundle was accepted")
        place = escape(finding.position or "/")
        tell(f"[yellow]one digit altered:[/] {finding.code} at {place}: {escape(finding.message)}")
        return summary.entries


def _serve_ledger(data_dir: Path) -> tuple[subprocess.Popen[bytes], Path]:
    from ruamel.yaml import YAML

    secrets = YAML(typ="safe").load(data_dir / "tools-secrets.yaml")
    file = data_dir / "ledger.jsonl"
    file.touch()
    token = str(secrets["ledger_authorization"]["value"]).removeprefix("Bearer ")
    environment = {"LEDGER_TOKEN": token, "PATH": os.environ["PATH"]}
    port = os.environ["SLIPWAY_LEDGER_PORT"]
    return subprocess.Popen([sys.executable, HERE / "ledger.py", port, file], env=environment), file


def main() -> int:
    """The tour, from the ledger's start to its end."""
    data_dir = Path(os.environ["SLIPWAY_DATA_DIR"])
    ledger, file = _serve_ledger(data_dir)
    began = time.monotonic()
    try:
        tour = Tour(data_dir, file)
        tour.knowledge_and_agent()
        run = tour.run()
        tour.answer(run)
        folder = data_dir / "evidence"
        folder.mkdir(exist_ok=True)
        verified = tour.evidence(run, folder)
    except TourFailedError as failed:
        console.print(f"\n[red]tour: failed[/] {escape(str(failed))}")
        return 1
    finally:
        ledger.terminate()
        ledger.wait()
    tell(f"[dim]{time.monotonic() - began:.1f} s[/]")
    steps, cost = run.usage.steps, run.usage.cost_usd
    console.print(f"\n[bold green]tour: ok[/] ({run.run_id}, {steps} steps, {verified} events verified, ${cost:.6f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
