"""The proof that an event stands under a seal, which anybody can check who has nothing but the proof. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from workflows.history.digests import SEALED, event_digest, instant, seal_digest
from workflows.history.merkle import root_from
from workflows.models import Event
from workflows.records import Seal

Proof = dict[str, Any]


def described_event(event: Event) -> dict[str, Any]:
    """Return what an event's hash is made of, and the hash, as JSON."""
    return {
        "run_id": str(event.run_id),
        "seq": event.seq,
        "kind": event.kind,
        "at": instant(event.at),
        "data": event.data,
        "previous_hash": event.previous_hash,
        "hash": event.hash,
    }


def described_seal(seal: Seal) -> dict[str, Any]:
    """Return what a seal's hash is made of, and the hash, as JSON."""
    values = {name: getattr(seal, name) for name in SEALED} | {"sealed_at": instant(seal.sealed_at)}
    return {**values, "hash": seal.hash}


def verify_proof(proof: Mapping[str, Any], *, seal_hash: str | None = None) -> bool:
    """Tell whether a proof (`proof_of`, or its JSON) holds: this event, unaltered, stands under this seal.

    seal_hash: of the seal as somebody noted it elsewhere. Without it the proof shows only that event and seal fit one
    another; whoever can write to the database could have made both. Reads no database.
    """
    try:
        event, seal = proof["event"], proof["seal"]
        return (
            event["hash"] == hash_of(event)
            and seal["hash"] == seal_digest(seal)
            and seal_hash in (None, seal["hash"])
            and leads_to(seal, event["hash"], proof["index"], proof["path"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def hash_of(event: Mapping[str, Any]) -> str:
    """Return the hash that a described event must have."""
    at = datetime.fromisoformat(event["at"])
    return event_digest(
        event["run_id"], event["seq"], event["kind"], at, event["data"], event["previous_hash"]
    )


def leads_to(seal: Mapping[str, Any], event_hash: str, index: int, path: list[str]) -> bool:
    """Tell whether a path leads from the event's leaf, the one at `index`, to the seal's root."""
    count = seal["event_count"] + seal["act_count"]
    # Acts follow the events: a leaf beyond the events is not an event's.
    found = root_from(bytes.fromhex(event_hash), index, count, [bytes.fromhex(node) for node in path])
    return index < seal["event_count"] and found == bytes.fromhex(seal["root"])
