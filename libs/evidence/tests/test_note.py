import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_evidence.checkpoint import (
    Checkpoint,
    CheckpointError,
    Head,
    open_checkpoint,
    parse_checkpoint,
    previous_line,
)
from slipway_evidence.note import NoteError, SignatureError, SignerKey, VerifierKey, parse_note

# The example of golang.org/x/mod/sumdb/note.
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


@pytest.fixture(scope="module")
def key() -> SignerKey:
    return SignerKey.generate("example.com/log")


def test_the_published_example_of_the_note_format_verifies_and_is_reproduced() -> None:
    assert VerifierKey.parse(GO_VERIFIER).verify(parse_note(GO_NOTE)) == GO_TEXT
    signer = SignerKey.parse(GO_SIGNER)
    assert str(signer.verifier) == GO_VERIFIER
    assert signer.encode() == GO_SIGNER
    assert signer.sign(GO_TEXT) == GO_NOTE


def test_a_signed_text_verifies_and_survives_a_round_trip_of_its_keys(key: SignerKey) -> None:
    note = SignerKey.parse(key.encode() + "\n").sign("one\n\ntwo\n\n")
    assert VerifierKey.parse(f"{key.verifier}\n").verify(parse_note(note)) == "one\n\ntwo\n\n"


def test_a_signature_by_another_key_of_the_same_name_is_refused(key: SignerKey) -> None:
    note = SignerKey.generate(key.name).sign("text\n")
    with pytest.raises(SignatureError, match="not signed by"):
        key.verifier.verify(parse_note(note))


def test_signatures_of_unknown_keys_are_ignored_beside_a_good_one(key: SignerKey) -> None:
    line = SignerKey.generate("witness.example").sign("text\n").split("\n\n")[1]
    assert key.verifier.verify(parse_note(key.sign("text\n") + line)) == "text\n"


def test_a_changed_text_is_refused(key: SignerKey) -> None:
    with pytest.raises(SignatureError, match="does not fit"):
        key.verifier.verify(parse_note(key.sign("text\n").replace("text", "test")))


@given(st.data())
def test_any_changed_byte_of_a_note_is_refused(data: st.DataObject) -> None:
    signer = SignerKey.parse(GO_SIGNER)
    raw = bytearray(GO_NOTE.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))
    with pytest.raises((UnicodeDecodeError, NoteError, SignatureError)):
        signer.verifier.verify(parse_note(bytes(raw).decode()))


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text",
        "text\n",
        "text\n\n",
        "text\n\n— name\n",
        "text\n\n- name AAAAAAA=\n",
        "text\n\n— name AAAAAA==",
        "text\n\n— name not-base64\n",
        "text\n\n— na+me AAAAAAA=\n",
        "text\n\n— name AAAA\n",
        "text\n\n— name AAAAAAB=\n",
        "te\txt\n\n— name AAAAAAA=\n",
        "te\rxt\n\n— name AAAAAAA=\n",
        "text\n\n" + "— name AAAAAAA=\n" * 17,
        "x" * 70_000 + "\n\n— name AAAAAAA=\n",
        "\ud800\n\n— name AAAAAAA=\n",
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        parse_note(note)


@pytest.mark.parametrize("text", ["no end", "tab\there\n", "bell\x07\n", "\ud800\n"])
def test_a_text_that_breaks_the_rules_is_not_signed(key: SignerKey, text: str) -> None:
    with pytest.raises(NoteError):
        key.sign(text)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "nbsp\u00a0", "line\n", "esc\x1b"])
def test_a_key_name_that_breaks_the_rules_is_refused(name: str) -> None:
    with pytest.raises(NoteError):
        SignerKey.generate(name)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "name",
        "name+00000000",
        GO_VERIFIER.replace("c74f20a3", "c74f20a4"),
        GO_VERIFIER.replace("c74f20a3", "C74F20A3"),
        GO_VERIFIER[:-1],
        GO_VERIFIER.replace("+AR", "+Ag"),
        GO_VERIFIER + " ",
        GO_SIGNER,
    ],
)
def test_a_damaged_verifier_key_is_refused(line: str) -> None:
    with pytest.raises(NoteError):
        VerifierKey.parse(line)


def test_a_private_key_never_shows_in_its_representation_nor_in_errors(key: SignerKey) -> None:
    assert "PRIVATE" not in repr(key)
    with pytest.raises(NoteError) as caught:
        SignerKey.parse(GO_SIGNER.replace("c74f20a3", "00000000"))
    assert "AYEKFALV" not in str(caught.value)


HEAD = Head("example.com/log", 7, b"\x07" * 32)


def test_a_checkpoint_reads_back_as_it_was_signed(key: SignerKey) -> None:
    old = Head("example.com/old", 9, b"\x09" * 32)
    signed = Checkpoint(HEAD, (previous_line(old), "other words")).sign(key)
    opened = open_checkpoint(signed, key.verifier)
    assert opened.head == HEAD
    assert opened.previous == old
    assert open_checkpoint(Checkpoint(HEAD).sign(key), key.verifier).previous is None


def test_the_published_checkpoint_text_parses() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    head = parse_checkpoint(text).head
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert Checkpoint(head).text() == text


ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n7\n",
        f"origin\n7\n{ROOT}",
        f"\n7\n{ROOT}\n",
        f"origin\n07\n{ROOT}\n",
        f"origin\n-7\n{ROOT}\n",
        f"origin\n٧\n{ROOT}\n",
        f"origin\n9007199254740992\n{ROOT}\n",
        f"origin\n{'9' * 5000}\n{ROOT}\n",
        "origin\n7\nAAAA\n",
        f"origin\n7\n{ROOT.replace('2I=', '2J=')}\n",
        f"origin\n7\n{ROOT}\n\n",
        f"origin\n7\n{ROOT}\nprevious-log a 1\n",
        f"origin\n7\n{ROOT}\nprevious-log a  {ROOT}\n",
        f"origin\n7\n{ROOT}\nprevious-log a 1 {ROOT}\nprevious-log a 1 {ROOT}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_checkpoint(text)


def test_an_extension_cannot_smuggle_in_another_line() -> None:
    with pytest.raises(CheckpointError):
        Checkpoint(HEAD, ("fine\nnot fine",)).text()


def test_a_verifier_key_has_the_documented_form(key: SignerKey) -> None:
    assert re.fullmatch(r"example\.com/log\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}", str(key.verifier))
