"""The tree in PostgreSQL: full tiles of 256 hashes, written once, and the leaves beside them (C2SP tlog-tiles' layout).

Appending writes a tile for every 256 leaves; a proof reads a few tiles, whatever the size of the log.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from slipway_evidence.merkle import HASH_SIZE, Node, complete_root, decompose, fold, leaf_hash

from slipway_audit.errors import LogInconsistent

HEIGHT = 8
WIDTH = 1 << HEIGHT
_Tile = tuple[int, int]  # level of tiles, place in the level

_FULL = """
SELECT level, place, hashes FROM audit_tile
WHERE tenant = $1 AND (level, place) IN (SELECT * FROM unnest($2::smallint[], $3::bigint[]))
"""
_LEAVES = "SELECT commitment FROM audit_leaf WHERE tenant = $1 AND index >= $2 AND index < $3 ORDER BY index"
_ROOTS = "SELECT root FROM audit_tile WHERE tenant = $1 AND level = $2 AND place >= $3 AND place < $4 ORDER BY place"


async def complete_tiles(conn: Any, tenant: str, start: int, leaves: Sequence[bytes]) -> None:
    """Write the tiles that `leaves`, leaf hashes to be appended at index `start`, fill. In the append's transaction."""
    level, hashes = 0, list(leaves)
    while hashes:
        first = start >> HEIGHT
        if (start + len(hashes)) >> HEIGHT == first:
            return
        begun = start & (WIDTH - 1)
        row = [*await _begun(conn, tenant, level, first, begun), *hashes] if begun else hashes
        tiles = [row[i : i + WIDTH] for i in range(0, len(row) - WIDTH + 1, WIDTH)]
        roots = [complete_root(tile) for tile in tiles]
        await conn.executemany(
            "INSERT INTO audit_tile (tenant, level, place, root, hashes) VALUES ($1, $2, $3, $4, $5)",
            [
                (tenant, level, first + number, root, b"".join(tile))
                for number, (root, tile) in enumerate(zip(roots, tiles, strict=True))
            ],
        )
        level, start, hashes = level + 1, first, roots


async def read_nodes(conn: Any, tenant: str, size: int, nodes: Iterable[Node]) -> dict[Node, bytes]:
    """Hashes of complete subtrees of a tree of `size` leaves. Leaves that are appended meanwhile do no harm.

    Raises LogInconsistent when the database lacks some of them.
    """
    wanted = set(nodes)
    tiles = {_tile(node) for node in wanted}
    found: dict[_Tile, Sequence[bytes]] = await _full(conn, tenant, {tile for tile in tiles if _is_full(tile, size)})
    for tile in tiles - found.keys():
        level, place = tile
        found[tile] = await _begun(conn, tenant, level, place, (size >> HEIGHT * level) - (place << HEIGHT))
    return {node: _node(node, found[_tile(node)]) for node in wanted}


async def read_root(conn: Any, tenant: str, size: int) -> bytes:
    """Root of the tree of the first `size` leaves, from what is stored."""
    nodes = decompose(0, size)
    hashes = await read_nodes(conn, tenant, size, nodes)
    return fold([hashes[node] for node in nodes])


def _tile(node: Node) -> _Tile:
    level, height = divmod(node.level, HEIGHT)
    return level, (node.place << height) >> HEIGHT


def _is_full(tile: _Tile, size: int) -> bool:
    level, place = tile
    return (place + 1) << HEIGHT <= size >> HEIGHT * level


def _node(node: Node, hashes: Sequence[bytes]) -> bytes:
    height = node.level % HEIGHT
    first = (node.place << height) & (WIDTH - 1)
    return complete_root(hashes[first : first + (1 << height)])


async def _full(conn: Any, tenant: str, tiles: set[_Tile]) -> dict[_Tile, Sequence[bytes]]:
    if not tiles:
        return {}
    levels, places = zip(*tiles, strict=True)
    rows = await conn.fetch(_FULL, tenant, levels, places)
    if len(rows) != len(tiles):
        raise LogInconsistent(f"the log of {tenant} lacks {len(tiles) - len(rows)} of {len(tiles)} full tiles")
    return {
        (row["level"], row["place"]): [row["hashes"][i : i + HASH_SIZE] for i in range(0, WIDTH * HASH_SIZE, HASH_SIZE)]
        for row in rows
    }


async def _begun(conn: Any, tenant: str, level: int, place: int, count: int) -> list[bytes]:
    """The first `count` hashes of a tile that need not be full. Raises LogInconsistent when some are missing."""
    first = place << HEIGHT
    if level == 0:
        rows = await conn.fetch(_LEAVES, tenant, first, first + count)
        hashes = [leaf_hash(row["commitment"]) for row in rows]
    else:
        rows = await conn.fetch(_ROOTS, tenant, level - 1, first, first + count)
        hashes = [row["root"] for row in rows]
    if len(hashes) != count:
        raise LogInconsistent(f"the log of {tenant} lacks {count - len(hashes)} of {count} hashes of level {level}")
    return hashes
