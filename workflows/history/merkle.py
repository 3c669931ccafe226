"""Merkle trees as of RFC 6962, section 2.1: one root for many leaves, and a short proof that one of them is there. Pure.

Leaves and nodes are hashed with different prefixes: a node can't be passed off as a leaf. The tree of n leaves is built
level by level, a last one without a neighbour moving up as it is; that is the same tree as the RFC's, which splits at
the largest power of two.
"""

import hashlib
from collections.abc import Iterable

EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """All levels of the tree over some leaves, in memory: about 150 bytes a leaf."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self.levels = [[leaf_hash(data) for data in leaves]]
        while len(self.levels[-1]) > 1:
            self.levels.append(_level_above(self.levels[-1]))

    @property
    def root(self) -> bytes:
        return self.levels[-1][0] if self.levels[-1] else EMPTY

    def path(self, index: int) -> list[bytes]:
        """Return the neighbours on the way from a leaf to the root: what `root_from` needs."""
        path = []
        for level in self.levels[:-1]:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index //= 2
        return path


def _level_above(level: list[bytes]) -> list[bytes]:
    pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + level[-1:] if len(level) % 2 else pairs


def root_from(data: bytes, index: int, count: int, path: list[bytes]) -> bytes | None:
    """Return the root to which a path leads from the leaf at `index` of `count`; None when it has not the length for it.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < count:
        return None
    found, last, rest = leaf_hash(data), count - 1, iter(path)
    while last > 0:
        if index % 2 or index < last:
            neighbour = next(rest, None)
            if neighbour is None:
                return None
            found = node_hash(neighbour, found) if index % 2 else node_hash(found, neighbour)
        index, last = index // 2, last // 2
    return found if next(rest, None) is None else None
