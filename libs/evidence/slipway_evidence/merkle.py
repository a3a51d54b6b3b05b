"""RFC 6962 Merkle trees: hashing, and inclusion and consistency proofs, made and checked.

A tree is never held whole here. Making a proof says which complete subtrees it needs (`Node`), and the caller brings
their hashes from wherever it keeps them; checking a proof needs nothing but the proof (RFC 9162, 2.1.3.2 and 2.1.4.2).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(ValueError):
    """A proof does not show what it should; the message says where it breaks."""


class Node(NamedTuple):
    """A complete subtree: the leaves from `place << level` up to, not including, `(place + 1) << level`."""

    level: int
    place: int


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf (RFC 6962, 2.1): SHA-256 of 0x00 and the leaf's data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node (RFC 6962, 2.1): SHA-256 of 0x01 and both children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(subtrees: Sequence[bytes]) -> bytes:
    """Root over complete subtrees of falling size, left to right; the root of an empty tree when there are none."""
    if not subtrees:
        return EMPTY_ROOT
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Root over a power of two of sibling hashes of one level."""
    row = list(hashes)
    if not row or len(row) & (len(row) - 1):
        raise ValueError(f"{len(row)} hashes do not make a complete subtree")
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


def decompose(start: int, end: int) -> list[Node]:
    """The fewest complete subtrees that cover the leaves from `start` up to `end`, left to right."""
    nodes: list[Node] = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def _split(width: int) -> int:
    """Largest power of two smaller than `width` (RFC 6962, 2.1: k)."""
    return 1 << ((width - 1).bit_length() - 1)


def _inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Sibling ranges on the way from a leaf to the root: PATH(m, D[n]) of RFC 6962, 2.1.1."""
    if not 0 <= index < size:
        raise ProofError(f"leaf {index} is not in a tree of {size}")
    low, high, ranges = 0, size, list[tuple[int, int]]()
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    return ranges[::-1]


def _consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """Ranges of PROOF(m, D[n]) of RFC 6962, 2.1.2, in the proof's order."""
    if not 0 < first <= second:
        raise ProofError(f"no consistency proof leads from a tree of {first} to a tree of {second}")
    low, high, whole, ranges = 0, second, True, list[tuple[int, int]]()
    while first != high:
        middle = low + _split(high - low)
        if first <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low, whole = middle, False
    if not whole:
        ranges.append((low, high))
    return ranges[::-1]


def _nodes(ranges: Iterable[tuple[int, int]]) -> list[Node]:
    return [node for start, end in ranges for node in decompose(start, end)]


def _hashes(ranges: Iterable[tuple[int, int]], hashes: Mapping[Node, bytes]) -> list[bytes]:
    return [fold([hashes[node] for node in decompose(start, end)]) for start, end in ranges]


def inclusion_nodes(index: int, size: int) -> list[Node]:
    """Subtrees whose hashes `inclusion_proof` needs; at most 2·log2(size)."""
    return _nodes(_inclusion_ranges(index, size))


def inclusion_proof(index: int, size: int, hashes: Mapping[Node, bytes]) -> list[bytes]:
    """Audit path of leaf `index` in the tree of the first `size` leaves, leaf to root (RFC 6962, 2.1.1)."""
    return _hashes(_inclusion_ranges(index, size), hashes)


def consistency_nodes(first: int, second: int) -> list[Node]:
    """Subtrees whose hashes `consistency_proof` needs."""
    return _nodes(_consistency_ranges(first, second))


def consistency_proof(first: int, second: int, hashes: Mapping[Node, bytes]) -> list[bytes]:
    """Proof that the tree of `first` leaves is a prefix of the tree of `second` (RFC 6962, 2.1.2)."""
    return _hashes(_consistency_ranges(first, second), hashes)


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check an audit path (RFC 9162, 2.1.3.2).

    Raises ProofError unless `leaf`, a leaf hash, is at `index` in the tree of `size` leaves with that root.
    """
    if not 0 <= index < size:
        raise ProofError(f"leaf {index} is not in a tree of {size}")
    _check_sizes([leaf, *proof])
    fn, sn, computed = index, size - 1, leaf
    for step in proof:
        if sn == 0:
            raise ProofError("the proof is too long")
        if fn & 1 or fn == sn:
            computed = node_hash(step, computed)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, step)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise ProofError("the proof is too short")
    if computed != root:
        raise ProofError("the proof leads to another root")


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof (RFC 9162, 2.1.4.2).

    Raises ProofError unless the tree of `first` leaves is a prefix of the tree of `second`. A `first` of 0 shows
    nothing about the second tree, and is refused.
    """
    if not 0 < first <= second:
        raise ProofError(f"no consistency proof leads from a tree of {first} to a tree of {second}")
    if first == second:
        if proof:
            raise ProofError("trees of one size need an empty proof")
        if first_root != second_root:
            raise ProofError("two roots for one size")
        return
    if not proof:
        raise ProofError("the proof is empty")
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    _check_sizes(path)
    old, new = _climb(first, second, path)
    if old != first_root:
        raise ProofError("the proof leads to another first root")
    if new != second_root:
        raise ProofError("the proof leads to another second root")


def _climb(first: int, second: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Both roots that a consistency proof leads to."""
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = path[0]
    for step in path[1:]:
        if sn == 0:
            raise ProofError("the proof is too long")
        if fn & 1 or fn == sn:
            old, new = node_hash(step, old), node_hash(step, new)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node_hash(new, step)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise ProofError("the proof is too short")
    return old, new


def _check_sizes(hashes: Iterable[bytes]) -> None:
    if any(len(one) != HASH_SIZE for one in hashes):
        raise ProofError(f"a hash is not {HASH_SIZE} bytes long")


class Frontier:
    """The right edge of a growing tree: its complete subtrees, largest first. Appending costs O(1) on average."""

    def __init__(self, size: int, subtrees: Sequence[bytes]) -> None:
        """Continue a tree of `size` leaves; `subtrees` are those of `decompose(0, size)`."""
        if len(subtrees) != size.bit_count() or any(len(one) != HASH_SIZE for one in subtrees):
            raise ValueError(f"{len(subtrees)} subtrees are not the right edge of a tree of {size}")
        self.size = size
        self._subtrees = list(subtrees)

    @classmethod
    def unpack(cls, size: int, packed: bytes) -> "Frontier":
        """Read what `pack` wrote."""
        return cls(size, [packed[i : i + HASH_SIZE] for i in range(0, len(packed), HASH_SIZE)])

    def pack(self) -> bytes:
        """The subtrees' hashes, concatenated."""
        return b"".join(self._subtrees)

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        edge, computed = self.size, leaf
        while edge & 1:
            computed = node_hash(self._subtrees.pop(), computed)
            edge >>= 1
        self._subtrees.append(computed)
        self.size += 1

    def root(self) -> bytes:
        """Root of the tree as it stands."""
        return fold(self._subtrees)
