"""Merkle trees and proofs, against the definition of RFC 6962 written down as it stands there."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.history.merkle import MerkleTree, leaf_hash, root_from

leaves = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def naive_root(data: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1."""
    if not data:
        return sha256(b"")
    if len(data) == 1:
        return sha256(b"\x00" + data[0])
    k = split(len(data))
    return sha256(b"\x01" + naive_root(data[:k]) + naive_root(data[k:]))


def naive_path(index: int, data: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if index < k:
        return [*naive_path(index, data[:k]), naive_root(data[k:])]
    return [*naive_path(index - k, data[k:]), naive_root(data[:k])]


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_root_is_that_of_the_rfc(data: list[bytes]) -> None:
    assert MerkleTree(data).root == naive_root(data)


@given(leaves, st.data())
def test_path_is_that_of_the_rfc_and_leads_to_the_root(data: list[bytes], draw: Any) -> None:
    index = draw.draw(st.integers(0, len(data) - 1))
    tree = MerkleTree(data)
    assert tree.path(index) == naive_path(index, data)
    assert root_from(data[index], index, len(data), tree.path(index)) == tree.root


@given(leaves, st.data())
def test_no_other_leaf_or_place_or_path_leads_there(data: list[bytes], draw: Any) -> None:
    index = draw.draw(st.integers(0, len(data) - 1))
    tree = MerkleTree(data)
    path = tree.path(index)
    assert root_from(data[index] + b"!", index, len(data), path) != tree.root
    assert root_from(data[index], index, len(data), [*path, sha256(b"")]) is None
    if path:
        assert root_from(data[index], index, len(data), path[1:]) is None
        other = draw.draw(st.integers(0, len(path) - 1))
        assert (
            root_from(data[index], index, len(data), [*path[:other], sha256(b"?"), *path[other + 1 :]])
            != tree.root
        )
    for place in range(len(data)):
        if data[place] != data[index]:
            assert root_from(data[index], place, len(data), path) != tree.root


def test_a_node_is_no_leaf() -> None:
    """Without the prefixes, the two halves of a node would pass for a leaf: the second preimage of old trees."""
    tree = MerkleTree([b"a", b"b"])
    forged = leaf_hash(b"a") + leaf_hash(b"b")
    assert root_from(forged, 0, 1, []) != tree.root


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_place_outside_the_tree_proves_nothing(index: int, count: int) -> None:
    assert root_from(b"a", index, count, []) is None


# From the test vectors of the Certificate Transparency reference implementation (trillian, certificate-transparency-go).
VECTOR = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("count", ROOTS)
def test_roots_are_those_of_certificate_transparency(count: int) -> None:
    assert MerkleTree(bytes.fromhex(text) for text in VECTOR[:count]).root.hex() == ROOTS[count]
