"""`slipway knowledge …`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import FAILED, USAGE, console, errors, fail, print_json, show_many
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client, Document

app = typer.Typer(help="Collections of documents.", no_args_is_help=True)

_Collection = Annotated[str, typer.Argument(help="Name of the collection.")]


@app.command()
@at_gateway
def add(
    client: "Client",
    collection: _Collection,
    files: Annotated[
        list[Path], typer.Argument(help="Documents: Markdown, HTML, PDF, docx, text.", exists=True, dir_okay=False)
    ],
    reader: Annotated[list[str] | None, typer.Option("--reader", help="Who may read: user:…, role:…, group:….")] = None,
    wait: Annotated[int, typer.Option(help="Most seconds to wait until all is searchable.", min=1)] = 600,
    as_json: JsonOption = False,
) -> None:
    """Put documents into a collection (made at first use) and wait until they are searchable."""
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        fail("two files have the same name, and a document's id is its file's name: add them one by one", USAGE)
    _make(client, collection)
    put = [client.knowledge.put_document(collection, file.name, file, readers=reader or ()) for file in files]
    documents = follow_indexing(client, put, seconds=wait)
    if as_json:
        print_json({"documents": [one.model_dump(mode="json") for one in documents]})
    for one in documents:
        if one.state == "FAILED":
            fail(f"{one.document}: {one.error}", FAILED)
        if one.state != "READY":
            fail(
                f"{one.document} is still being indexed after {wait} s: look again with `slipway knowledge list`",
                FAILED,
            )


def _make(client: "Client", collection: str) -> None:
    from slipway_client import NotFoundError

    # A collection that exists stays as it is described.
    try:
        client.knowledge.get_collection(collection)
    except NotFoundError:
        client.knowledge.put_collection(collection)


def follow_indexing(client: "Client", documents: "list[Document]", *, seconds: float) -> "list[Document]":
    """Waits, with a progress bar, until every document is READY or FAILED or the time is up."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    deadline = time.monotonic() + seconds
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("chunks"), console=errors
    ) as progress:
        bars = [progress.add_task(one.document, total=one.chunk_count or None) for one in documents]
        current = list(documents)
        while True:
            for index, one in enumerate(current):
                if one.state == "INDEXING":
                    current[index] = client.knowledge.get_document(one.collection, one.document)
                done = current[index]
                indexed = done.chunk_count if done.state == "READY" else done.indexed_chunk_count
                progress.update(bars[index], completed=indexed, total=done.chunk_count or None)
            if all(one.state != "INDEXING" for one in current) or time.monotonic() > deadline:
                return current
            time.sleep(0.2)


@app.command("list")
@at_gateway
def list_(client: "Client", collection: _Collection, as_json: JsonOption = False) -> None:
    """List the documents that you may read."""
    columns = ("document", "title", "state", "chunk_count", "size_bytes", "error")
    show_many(client.knowledge.documents(collection), columns, as_json=as_json, key="documents")


@app.command()
@at_gateway
def search(
    client: "Client",
    collection: _Collection,
    query: Annotated[str, typer.Argument(help="The question.")],
    limit: Annotated[int, typer.Option(help="Most passages.", min=1, max=50)] = 5,
    as_json: JsonOption = False,
) -> None:
    """Find passages by meaning and words."""
    passages = client.knowledge.search(collection, query, limit=limit)
    if as_json:
        print_json({"passages": [one.model_dump(mode="json") for one in passages]})
        return
    for one in passages:
        page = f", page {one.page}" if one.page else ""
        place = " › ".join([one.title or one.document, *one.headings])
        console.print(f"[bold]{one.score:.2f}[/] [cyan]{place}{page}[/]", highlight=False)
        console.print(f"     {' '.join(one.text.split())[:300]}", markup=False, highlight=False)
    if not passages:
        console.print("[dim]nothing found[/]")


@app.command()
@at_gateway
def delete(
    client: "Client",
    collection: _Collection,
    document: Annotated[str, typer.Argument(help="Id of the document.")],
) -> None:
    """Remove a document."""
    client.knowledge.delete_document(collection, document)
