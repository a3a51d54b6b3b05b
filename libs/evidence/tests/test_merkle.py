import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_evidence.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    ProofError,
    complete_root,
    consistency_nodes,
    consistency_proof,
    decompose,
    inclusion_nodes,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

VECTORS = (
    next(parent for parent in Path(__file__).parents if (parent / "tests/data/merkle").is_dir()) / "tests/data/merkle"
)


def vectors(kind: str) -> list[Path]:
    return sorted((VECTORS / "testdata" / kind).rglob("*.json"))


def decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def test_all_public_vectors_are_there() -> None:
    assert len(vectors("inclusion")) == 98
    assert len(vectors("consistency")) == 98


@pytest.mark.parametrize("path", vectors("inclusion"), ids=lambda path: str(path.relative_to(VECTORS)))
def test_an_inclusion_vector_is_refused_exactly_when_it_wants_an_error(path: Path) -> None:
    case = json.loads(path.read_text())
    proof = [decoded(step) for step in case["proof"] or []]
    arguments = (case["leafIdx"], case["treeSize"], decoded(case["leafHash"]), proof, decoded(case["root"]))
    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify_inclusion(*arguments)
    else:
        verify_inclusion(*arguments)


@pytest.mark.parametrize("path", vectors("consistency"), ids=lambda path: str(path.relative_to(VECTORS)))
def test_a_consistency_vector_is_refused_exactly_when_it_wants_an_error(path: Path) -> None:
    case = json.loads(path.read_text())
    proof = [decoded(step) for step in case["proof"] or []]
    arguments = (case["size1"], case["size2"], decoded(case["root1"]), decoded(case["root2"]), proof)
    if case["wantErr"]:
        with pytest.raises(ProofError):
            verify_consistency(*arguments)
    else:
        verify_consistency(*arguments)


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(first: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2, word for word."""
    if first == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if first <= k:
        return [*naive_proof(first, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_proof(first - k, leaves[k:], False), naive_root(leaves[:k])]


def some_leaves(size: int) -> list[bytes]:
    return [str(i).encode() for i in range(size)]


def hashes(leaves: list[bytes], nodes: list[Node]) -> dict[Node, bytes]:
    return {
        node: complete_root(
            [leaf_hash(leaf) for leaf in leaves[node.place << node.level : (node.place + 1) << node.level]]
        )
        for node in nodes
    }


@given(st.integers(0, 300))
def test_a_growing_tree_has_the_root_of_the_definition(size: int) -> None:
    leaves = some_leaves(size)
    frontier = Frontier(0, [])
    for leaf in leaves[: size // 2]:
        frontier.append(leaf_hash(leaf))
    frontier = Frontier.unpack(frontier.size, frontier.pack())
    for leaf in leaves[size // 2 :]:
        frontier.append(leaf_hash(leaf))
    assert frontier.root() == naive_root(leaves)
    assert frontier.size == size


@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_inclusion_proofs_are_those_of_the_definition_and_verify(case: tuple[int, int]) -> None:
    size, index = case
    leaves = some_leaves(size)
    proof = inclusion_proof(index, size, hashes(leaves, inclusion_nodes(index, size)))
    assert proof == naive_path(index, leaves)
    verify_inclusion(index, size, leaf_hash(leaves[index]), proof, naive_root(leaves))
    for other in {0, size - 1, (index + 1) % size} - {index}:
        with pytest.raises(ProofError):
            verify_inclusion(other, size, leaf_hash(leaves[index]), proof, naive_root(leaves))


@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))))
def test_consistency_proofs_are_those_of_the_definition_and_verify(case: tuple[int, int]) -> None:
    size, first = case
    leaves = some_leaves(size)
    proof = consistency_proof(first, size, hashes(leaves, consistency_nodes(first, size)))
    assert proof == naive_proof(first, leaves)
    old, new = naive_root(leaves[:first]), naive_root(leaves)
    verify_consistency(first, size, old, new, proof)
    forged = naive_root([*leaves[:-1], b"forged"])
    with pytest.raises(ProofError):
        verify_consistency(first, size, old, forged, proof)


@given(st.integers(1, 2**40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_a_proof_needs_few_subtrees_however_large_the_tree(case: tuple[int, int]) -> None:
    size, index = case
    assert len(inclusion_nodes(index, size)) <= 2 * size.bit_length()
    assert len(consistency_nodes(index + 1, size)) <= 3 * size.bit_length()


@given(st.integers(0, 2**50))
def test_a_tree_is_covered_by_one_subtree_for_each_bit_of_its_size(size: int) -> None:
    nodes = decompose(0, size)
    assert len(nodes) == size.bit_count()
    assert sum(1 << node.level for node in nodes) == size


def test_the_empty_tree_has_the_hash_of_nothing_as_root() -> None:
    assert Frontier(0, []).root() == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_a_right_edge_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="not the right edge"):
        Frontier(3, [b"\0" * 32])
