"""Documents and files: multipart uploads passed on while they arrive, and downloads."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import InvalidArgument

DOCUMENT = "/v1/collections/handbook/documents/refunds.md"


@pytest.fixture
def received(services: Any) -> list[tuple[pb.DocumentDescription, bytes, int]]:
    """What the memory service got: description, bytes, largest part."""
    uploads: list[tuple[pb.DocumentDescription, bytes, int]] = []

    def put(call: Any) -> pb.PutDocumentResponse:
        first, *rest = call.request
        # As memory does: without its end, an upload was cut off.
        if not rest or rest[-1].end.size_bytes != sum(len(part.data) for part in rest):
            raise InvalidArgument("the upload was cut off")
        parts = [part.data for part in rest[:-1]]
        uploads.append((first.description, b"".join(parts), max(map(len, parts), default=0)))
        document = pb.Document(collection="handbook", document="refunds.md", state=pb.DOCUMENT_STATE_INDEXING)
        return pb.PutDocumentResponse(document=document, created=len(uploads) == 1)

    services.on("PutDocument", put)
    return uploads


def test_a_document_arrives_whole_with_its_description(alice: Any, received: list[Any]) -> None:
    content = bytes(range(256)) * 2000
    form = {"title": "Rückgaben", "readers": '["role:support"]', "metadata": '{"lang": "de"}'}
    answer = alice.put(
        DOCUMENT,
        data=form,
        files={"file": ("refunds.md", content, "text/markdown")},
        headers={"Idempotency-Key": "doc-1"},
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "INDEXING"
    description, data, largest = received[0]
    assert data == content
    assert largest <= 64 * 1024
    assert (description.collection, description.document) == ("handbook", "refunds.md")
    assert (description.filename, description.content_type) == ("refunds.md", "text/markdown")
    assert description.title == "Rückgaben"
    assert list(description.readers) == ["role:support"]
    assert description.metadata == {"lang": "de"}
    assert description.request_id == "doc-1"
    assert alice.put(DOCUMENT, files={"file": ("a.md", b"x")}).status_code == 200, "it is known now"


def test_an_empty_file_is_passed_on_for_the_service_to_judge(alice: Any, received: list[Any]) -> None:
    assert alice.put(DOCUMENT, files={"file": ("empty.md", b"")}).status_code == 201
    assert received[0][1] == b""


def test_what_the_service_refuses_reaches_the_client_while_it_still_sends(alice: Any, services: Any) -> None:
    class DocumentEncrypted(InvalidArgument):
        reason = "DOCUMENT_ENCRYPTED"

    def refuse(call: Any) -> Any:
        next(call.request)
        raise DocumentEncrypted("the PDF is encrypted", field="file")

    services.on("PutDocument", refuse)
    answer = alice.put(DOCUMENT, files={"file": ("a.pdf", b"x" * 900_000)})
    assert answer.status_code == 422
    assert answer.json()["code"] == "DOCUMENT_ENCRYPTED"


def test_a_refusal_names_the_form_s_field_not_the_contract_s(alice: Any, services: Any) -> None:
    class DocumentEmpty(InvalidArgument):
        reason = "DOCUMENT_EMPTY"

    def refuse(call: Any) -> Any:
        list(call.request)
        raise DocumentEmpty("the upload has no bytes", field="data")

    services.on("PutDocument", refuse)
    problem = alice.put(DOCUMENT, files={"file": ("a.md", b"")}).json()
    assert (problem["field"], problem["violations"][0]["field"]) == ("file", "file")


def test_a_file_over_the_limit_is_413_and_never_looks_whole_to_the_service(
    alice: Any, services: Any, received: list[Any]
) -> None:
    answer = alice.put(DOCUMENT, files={"file": ("big.bin", b"x" * (1024 * 1024 + 1))})
    assert answer.status_code == 413
    assert answer.json()["metadata"]["limit_bytes"] == str(1024 * 1024)
    assert received == []
    assert alice.put(DOCUMENT, files={"file": ("fits.bin", b"x" * (1024 * 1024))}).status_code == 201


def test_a_far_too_large_body_is_refused_before_it_is_read(alice: Any, services: Any) -> None:
    answer = alice.put(DOCUMENT, files={"file": ("big.bin", b"x" * (3 * 1024 * 1024))})
    assert answer.status_code == 413
    assert services.asked("PutDocument") == 0


def multipart(*parts: tuple[str, str], end: str = "--B--\r\n") -> bytes:
    return ("".join(f"--B\r\n{head}\r\n\r\n{body}\r\n" for head, body in parts) + end).encode()


FILE = 'Content-Disposition: form-data; name="file"; filename="a.md"'
TITLE = 'Content-Disposition: form-data; name="title"'
READERS = 'Content-Disposition: form-data; name="readers"'


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (multipart((FILE, "x"), (READERS, "[]")), 422, "readers"),
        (multipart((READERS, "[]")), 422, "file"),
        (multipart(('Content-Disposition: form-data; name="other"', "x"), (FILE, "x")), 422, "other"),
        (multipart(('Content-Disposition: form-data; name="doc"; filename="a"', "x")), 422, "doc"),
        (multipart((READERS, "[1]"), (FILE, "x")), 422, "readers"),
        (multipart((READERS, "[broken"), (FILE, "x")), 422, "readers"),
        (multipart(('Content-Disposition: form-data; name="metadata"', '{"a": 1}'), (FILE, "x")), 422, "metadata"),
        (multipart((TITLE, "a"), (TITLE, "b"), (FILE, "x")), 422, "title"),
        (multipart((FILE, "x"), end=""), 400, None),
        (b"no form at all", 400, None),
        (b"", 422, "file"),
    ],
)  # fmt: skip
def test_a_wrong_form_says_what_is_wrong(
    alice: Any, received: list[Any], body: bytes, status: int, field: str | None
) -> None:
    answer = alice.put(DOCUMENT, content=body, headers={"content-type": "multipart/form-data; boundary=B"})
    assert answer.status_code == status, answer.text
    assert answer.json().get("field") == field
    assert received == []


def test_another_body_than_a_form_is_415(alice: Any) -> None:
    answer = alice.put(DOCUMENT, content=b"# text", headers={"content-type": "text/markdown"})
    assert answer.status_code == 415


def test_an_upload_is_refused_before_its_body_when_the_caller_is_unknown(gateway: Any, services: Any) -> None:
    answer = httpx.put(f"{gateway.url}{DOCUMENT}", files={"file": ("a.md", b"x" * 100_000)})
    assert answer.status_code == 401
    assert services.asked("PutDocument") == 0


def test_a_file_goes_up_and_comes_down(alice: Any, services: Any) -> None:
    stored: dict[str, Any] = {}

    def upload(call: Any) -> Any:
        stored["description"] = next(call.request).description
        stored["data"] = b"".join(part.data for part in call.request)
        return pb.UploadFileResponse(
            file=pb.File(file_id="file_1", filename="orders.csv", size_bytes=len(stored["data"]))
        )

    def download(call: Any) -> Iterator[Any]:
        yield pb.DownloadFileResponse(
            file=pb.File(
                filename="bestellungen ü.html", content_type="text/html", size_bytes=150_000, digest="sha256:x"
            )
        )
        for _ in range(3):
            yield pb.DownloadFileResponse(data=b"z" * 50_000)

    services.on("UploadFile", upload)
    services.on("DownloadFile", download)
    form = {"ttl_seconds": "3600", "readers": ["user:bob", "role:auditor"]}
    made = alice.post("/v1/files", data=form, files={"file": ("orders.csv", b"a,b\n1,2\n", "text/csv")})
    assert made.status_code == 201, made.text
    assert stored["data"] == b"a,b\n1,2\n"
    assert stored["description"].ttl.seconds == 3600
    assert list(stored["description"].readers) == ["user:bob", "role:auditor"]
    content = alice.get("/v1/files/file_1/content")
    assert content.content == b"z" * 150_000
    assert content.headers["content-type"].startswith("text/html")
    assert content.headers["content-disposition"] == "attachment; filename*=UTF-8''bestellungen%20%C3%BC.html"
    assert content.headers["x-content-type-options"] == "nosniff"
    etag = content.headers["etag"]
    had = alice.get("/v1/files/file_1/content", headers={"If-None-Match": f'"other", {etag}'})
    assert (had.status_code, had.content, had.headers["etag"]) == (304, b"", etag)
    wrong = alice.post("/v1/files", data={"ttl_seconds": "soon"}, files={"file": ("a", b"x")})
    assert wrong.json()["field"] == "ttl_seconds"


def test_search_sends_the_question_and_shows_where_the_answers_stand(alice: Any, services: Any) -> None:
    found = pb.Passage(passage_id="p1", document="refunds.md", headings=["A", "B"], page=0, text="…", score=0.5)
    services.on("SearchCollection", lambda call: pb.SearchCollectionResponse(passages=[found]))
    answer = alice.post(
        "/v1/collections/handbook/search", json={"query": "how?", "limit": 3, "alpha": 0, "regions": []}
    )
    passage = answer.json()["passages"][0]
    assert passage["headings"] == ["A", "B"]
    assert passage["page"] is None
    request = services.last("SearchCollection").request
    assert (request.query, request.limit, request.alpha, request.HasField("alpha")) == ("how?", 3, 0, True)
    assert request.regions_demanded
    for wrong in ({"query": ""}, {"query": "x", "limit": 51}, {"query": "x", "alpha": 2}, {"query": "x" * 4001}):
        assert alice.post("/v1/collections/handbook/search", json=wrong).status_code == 422


def test_json_of_forms_is_as_strict_as_of_bodies(alice: Any) -> None:
    form = {"metadata": json.dumps({"a": "x"})[:-1] + ', "a": "y"}'}
    answer = alice.put(DOCUMENT, data=form, files={"file": ("a.md", b"x")})
    assert answer.status_code == 422
    assert "twice" in answer.json()["detail"]
