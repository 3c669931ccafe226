"""Has anybody altered the trail, or what it speaks of? Chain by chain, then the heads.

Finds an entry that was edited, removed, put in or moved; a chain that was made anew without the key; a record or another
row that is not as it was written, is gone, or is in no entry; a key's state that no entry tells of; and, by the heads, a
chain that was cut short. Reads while others append: each chain up to where it ended when it was looked at.
"""

import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.db.models import Q, QuerySet

from keyguard.audit.codes import code, digest_of, key_named
from keyguard.audit.heads import hash_of, signer_of
from keyguard.audit.models import AuditChain, AuditEntry, AuditHead
from keyguard.audit.rows import fixed, found
from keyguard.models import SigningRecord
from keyguard.records import answer_of, intent_row, refused_row, signed_row
from keyguard.states import RecordState

CHUNK = 500

Progress = Callable[[int], None]
Digests = Iterator[tuple[int, int, str]]  # seq of an entry, how many records it speaks of, and their digest


@dataclass(frozen=True)
class TrailFault:
    """The first thing in a chain that does not fit. seq: of the entry; 0: none in particular."""

    chain: str
    seq: int
    problem: str

    def __str__(self) -> str:
        where = f"chain {self.chain}" + (f", entry {self.seq}" if self.seq else "")
        return f"audit trail, {where}: {self.problem}"


def verify_trail(
    *, progress: Progress | None = None, noted: Mapping[int, str] | None = None
) -> Iterator[TrailFault]:
    """Yield the first fault of each chain that has one, and those of the heads. noted: hashes of heads, kept elsewhere."""
    progress = progress or (lambda entries: None)
    for chain in AuditChain.objects.order_by("name").iterator(chunk_size=CHUNK):
        yield from _first(_chain_faults(chain, progress))
    unchained = SigningRecord.objects.filter(result_seq=None).exclude(state=RecordState.INTENT)
    unchained |= SigningRecord.objects.filter(state=RecordState.INTENT, intent_seq=None)
    for record in unchained[:1]:
        yield TrailFault(str(record.key_id), 0, f"the record {record.pk} is in no entry")
    yield from _first(_head_faults(noted or {}))


def _first(faults: Iterator[TrailFault]) -> Iterator[TrailFault]:
    fault = next(faults, None)
    if fault is not None:
        yield fault


def _chain_faults(chain: AuditChain, progress: Progress) -> Iterator[TrailFault]:
    walk = _Walk(chain)
    entries = AuditEntry.objects.filter(chain=chain, seq__lte=chain.seq).order_by("seq")
    for entry in entries.iterator(chunk_size=2000):
        if problem := walk.take(entry):
            yield TrailFault(chain.name, walk.seq, problem)
            return
        if len(walk.rows) >= CHUNK:
            yield from walk.row_faults()
        if walk.seq % 1000 == 0:
            progress(1000)
    progress(walk.seq % 1000)
    yield from walk.row_faults()
    yield from walk.end_faults()


class _Walk:
    """How far a chain was read, and what should come next."""

    def __init__(self, chain: AuditChain) -> None:
        self.chain, self.seq, self.before, self.state = chain, 0, b"", ""
        self.rows: list[tuple[int, dict[str, Any]]] = []  # to be looked at
        self._spoken = {
            True: _digests(chain, "intent_seq", intent_row),
            False: _digests(chain, "result_seq", _result_row),
        }
        self._next = {kind: next(spoken, None) for kind, spoken in self._spoken.items()}

    def take(self, entry: AuditEntry) -> str:
        """Take the next entry; return what is wrong with it."""
        self.seq += 1
        if problem := _problem(entry, self.seq, self.before, self.chain.name):
            return problem
        self.before, body = bytes(entry.mac), json.loads(entry.body)
        self.state = body.get("state", self.state)
        if "row" in body:
            self.rows.append((self.seq, body))
        if "records" in body:
            kind = entry.event == "intended"
            if self._next[kind] != (self.seq, body["records"], body["digest"]):
                return "the signing records are not those that it speaks of"
            self._next[kind] = next(self._spoken[kind], None)
        return ""

    def row_faults(self) -> Iterator[TrailFault]:
        """Yield what is wrong with the rows that the entries so far speak of."""
        ordered = sorted(self.rows, key=lambda one: str(one[1]["row"]))
        self.rows = []
        faults = []
        for name, group in groupby(ordered, key=lambda one: str(one[1]["row"])):
            spoken = list(group)
            there = found(name, [body["id"] for _, body in spoken])
            for seq, body in spoken:
                row = there.get(body["id"])
                if row is None:
                    faults.append(TrailFault(self.chain.name, seq, f"the {name} {body['id']} is gone"))
                elif digest_of([fixed(row)]) != body["digest"]:
                    faults.append(TrailFault(self.chain.name, seq, f"the {name} {body['id']} was altered"))
        yield from sorted(faults, key=lambda fault: fault.seq)

    def end_faults(self) -> Iterator[TrailFault]:
        """Yield what is wrong with where the chain ends."""
        chain = self.chain
        if (self.seq, self.before) != (chain.seq, bytes(chain.mac)):
            problem = f"it is gone: the chain had come to {chain.seq}, and ends at {self.seq}"
            yield TrailFault(chain.name, self.seq + 1, problem)
        for left in self._next.values():
            if left is not None:
                yield TrailFault(
                    chain.name, left[0], "signing records name it, and it does not speak of them"
                )
        key = chain.key
        if key is not None and self.state not in ("", key.state) and _stands_still(chain):
            problem = f"the key is {key.state}, and by its last entry that says so it is {self.state}"
            yield TrailFault(chain.name, self.seq, problem)


def _stands_still(chain: AuditChain) -> bool:
    return AuditChain.objects.filter(pk=chain.pk, seq=chain.seq).exists()


def _problem(entry: AuditEntry, seq: int, before: bytes, chain: str) -> str:
    """Return what is wrong with an entry that should have this number."""
    if entry.seq != seq:
        return f"it is gone: the next one there is {entry.seq}"
    key = key_named(entry.mac_key)
    if key is None:
        return f"its code was made with a key that the settings do not have: {entry.mac_key}"
    right = code(key, before, chain, seq, entry.at.isoformat(), entry.event, entry.body)
    return "" if hmac.compare_digest(right, bytes(entry.mac)) else "its code does not fit: it was altered"


def _digests(chain: AuditChain, column: str, row_of: Callable[[SigningRecord], Any]) -> Digests:
    """Yield what the entries of a key's chain should say of its records, in the order of the entries."""
    if chain.key_id is None:
        return
    records = SigningRecord.objects.filter(key_id=chain.key_id, **{f"{column}__lte": chain.seq})
    ordered = records.order_by(column, "pk").iterator(chunk_size=2000)
    for seq, group in groupby(ordered, key=lambda record: getattr(record, column)):
        rows = [row_of(record) for record in group]
        yield seq, len(rows), digest_of(rows)


def _result_row(record: SigningRecord) -> Any:
    if record.state == RecordState.SIGNED:
        return signed_row(record.pk, answer_of(record))
    refused = refused_row(record, record.error, record.why)
    return refused if record.intent_seq is not None else [intent_row(record), refused]


# --- Heads ------------------------------------------------------------------------------------------------


def _head_faults(noted: Mapping[int, str]) -> Iterator[TrailFault]:
    before, number = "", 0
    for head in AuditHead.objects.order_by("number").iterator(chunk_size=CHUNK):
        number += 1
        if head.number != number:
            yield _head_fault(number, f"it is gone: the next one there is {head.number}")
            return
        if head.hash != hash_of(number, head.at.isoformat(), head.heads, before):
            yield _head_fault(number, "its hash does not fit: it was altered")
            return
        if noted.get(number, head.hash) != head.hash:
            yield _head_fault(number, "it is not the one that was noted elsewhere")
        if head.signer and not _is_signed(head):
            yield _head_fault(number, f"{head.signer} has not signed it")
        before = head.hash
        yield from _covered(head)
    for missing in sorted(noted.keys() - set(range(1, number + 1))):
        yield _head_fault(missing, "it was noted elsewhere, and is gone")


def _head_fault(number: int, problem: str) -> TrailFault:
    return TrailFault(f"of heads, head {number}", 0, problem)


def _is_signed(head: AuditHead) -> bool:
    try:
        return signer_of(head) == head.signer
    except ValueError:
        return False


def _covered(head: AuditHead) -> Iterator[TrailFault]:
    """Yield a fault for each chain that no longer has what the head says."""
    ends = list(json.loads(head.heads).items())
    for start in range(0, len(ends), CHUNK):
        some = ends[start : start + CHUNK]
        wanted = Q()
        for name, (seq, _) in some:
            wanted |= Q(chain__name=name, seq=seq)
        rows: QuerySet[AuditEntry, Any] = AuditEntry.objects.filter(wanted).order_by()
        there = {name: bytes(mac).hex() for name, mac in rows.values_list("chain__name", "mac")}
        for name, (seq, mac) in some:
            if name not in there:
                ended = AuditChain.objects.filter(name=name).values_list("seq", flat=True).first() or 0
                yield TrailFault(
                    name, ended + 1, f"it is gone: head {head.number} says that the chain came to {seq}"
                )
            elif there[name] != mac:
                yield TrailFault(name, seq, f"it is another one than when head {head.number} was made")
