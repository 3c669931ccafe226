"""Blobs and what proves them: commitments, proofs and the versioned hashes that a transaction signs. EIP-4844, EIP-7594.

Pure but for the trusted setup, which is read from the file that ships with eth-account: two seconds, so at first use.
A blob's proofs take a third of a second; they are kept for a while, because each replacement carries the same blobs.

Nodes take two forms of what goes beside a blob transaction. Since the Osaka fork Ethereum's take cell proofs only, 128
for each blob (EIP-7594); those of chains before it take one proof for each blob. `Proofs` is where that is chosen.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import ckzg

BLOB_BYTES = GAS_PER_BLOB = 131_072
MAX_BLOBS = 6
COMMITMENT_BYTES = PROOF_BYTES = 48
# As much as four of the largest transactions; the blobs themselves are the keys.
KEPT = 24

_SETUP_FILE = "typed_transactions/blob_transactions/kzg_trusted_setup.txt"
_loading = threading.Lock()


class Proofs(IntEnum):
    """What proves the blobs to a node: the wrapper version of the network form."""

    BLOB = 0  # one for each blob: nodes before Osaka
    CELLS = 1  # 128 for each blob: EIP-7594


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What goes to the node beside a blob transaction, and is not part of what is signed."""

    proofs_kind: Proofs
    blobs: tuple[bytes, ...] = field(repr=False)
    commitments: tuple[bytes, ...] = field(repr=False)
    proofs: tuple[bytes, ...] = field(repr=False)

    @property
    def versioned_hashes(self) -> tuple[bytes, ...]:
        """The commitments as the transaction names them, and by that the blobs."""
        return tuple(b"\x01" + hashlib.sha256(commitment).digest()[1:] for commitment in self.commitments)


def make_sidecar(blobs: Sequence[bytes], proofs_kind: Proofs = Proofs.CELLS) -> Sidecar:
    """Commit to the blobs and prove them. Raises ValueError for a blob that is not 4096 field elements."""
    for blob in blobs:
        if len(blob) != BLOB_BYTES:
            raise ValueError("a blob has 131072 bytes")
    prove = _cell_proofs if proofs_kind is Proofs.CELLS else _blob_proof
    commitments = tuple(_commitment(blob) for blob in blobs)
    proofs = tuple(proof for blob in blobs for proof in prove(blob))
    return Sidecar(proofs_kind, tuple(blobs), commitments, proofs)


@lru_cache(maxsize=KEPT)
def _commitment(blob: bytes) -> bytes:
    return bytes(_computed(ckzg.blob_to_kzg_commitment, blob))


@lru_cache(maxsize=KEPT)
def _blob_proof(blob: bytes) -> tuple[bytes]:
    return (bytes(_computed(ckzg.compute_blob_kzg_proof, blob, _commitment(blob))),)


@lru_cache(maxsize=KEPT)
def _cell_proofs(blob: bytes) -> tuple[bytes, ...]:
    _, proofs = _computed(ckzg.compute_cells_and_kzg_proofs, blob)
    return tuple(bytes(proof) for proof in proofs)


def _computed(function: Callable[..., Any], *given: bytes) -> Any:
    try:
        return function(*given, trusted_setup())
    except RuntimeError:  # c-kzg has no other, and its text says nothing
        raise ValueError("a field element of the blob is not below the modulus of BLS12-381") from None


def trusted_setup() -> Any:
    """Return the setup of the KZG ceremony, read once per process."""
    with _loading:  # two threads would both take the two seconds
        return _setup()


@lru_cache(maxsize=1)
def _setup() -> Any:
    with as_file(files("eth_account") / _SETUP_FILE) as path:
        # 0: no table beforehand. One would save a third of each proof and cost more than that at the start.
        return ckzg.load_trusted_setup(str(path), 0)
