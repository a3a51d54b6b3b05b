"""Documents that are put and asked for while servers fail: none may be lost, none may be found twice."""

import secrets
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from slipway_client import Client
from slipway_client.errors import ApiError, ConnectionFailedError
from slipway_testkit.stack import Stack

from fault_testing.desk import persistent, until

COLLECTION = "fault-library"
_PARTS = 8


@dataclass
class Library:
    """Documents by name, each with a word that stands in every part of it and in no other document."""

    words: dict[str, str] = field(default_factory=dict[str, str])
    answered: int = 0
    """Searches that were answered."""

    def put(self, client: Client) -> str:
        """Puts one more document, however often it has to be asked; answers with its name."""
        name, word = f"d{secrets.token_hex(4)}", f"zq{secrets.token_hex(4)}"
        text = "\n\n".join(f"# Part {part}\n\n{word} and ordinary words of part {part}." for part in range(_PARTS))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "a.md"
            file.write_text(text)
            persistent(lambda: client.knowledge.put_document(COLLECTION, name, file))
        self.words[name] = word
        return name

    def check(self, client: Client, seconds: float) -> None:
        """Every document is READY within the time, and every passage of it is found once."""
        for name, word in self.words.items():
            until(lambda name=name: _ready(client, name), seconds, f"{name} is ready")
            whole = client.knowledge.get_document(COLLECTION, name).chunk_count
            found = [
                one for one in client.knowledge.search(COLLECTION, word, limit=50, alpha=0) if one.document == name
            ]
            assert len(found) == len({one.passage_id for one in found}) == whole, f"{len(found)} of {whole} of {name}"

    def use(self, stack: Stack, documents: int, stop: threading.Event) -> None:
        """Somebody who puts documents, one after the other, and searches until told to stop."""
        with stack.as_user("alice") as alice:
            while not stop.wait(0.2):
                if len(self.words) < documents:
                    self.put(alice)
                try:
                    alice.knowledge.search(COLLECTION, "ordinary words")
                    self.answered += 1
                except ConnectionFailedError:
                    continue
                except ApiError as error:
                    if error.status != 503:
                        raise


def _ready(client: Client, name: str) -> bool:
    document = client.knowledge.get_document(COLLECTION, name)
    assert document.state != "FAILED", f"{name}: {document.error}"
    return document.state == "READY"
