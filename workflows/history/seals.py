"""Sealing the history: one Merkle root, once a minute, over all events and acts that came since the seal before.

Upholds: whoever knows a seal's hash can tell, for ever, whether anything under it or under an earlier one was altered,
removed or put in, a run with its whole chain included. Any number of sweepers at once make each seal once, and a crash
leaves it either made or not begun.

Does not uphold: anything for what happened since the last seal; or against somebody who may rewrite all tables and
leaves nothing outside them to compare with. That is what `on_seal` is for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max

from workflows import clock
from workflows.crashpoints import crashpoint
from workflows.errors import NotPossibleError
from workflows.history.digests import act_digest, seal_digest
from workflows.history.merkle import MerkleTree
from workflows.history.proofs import Proof, described_event, described_seal
from workflows.models import Act, Event
from workflows.records import ArchivedLeaves, Seal

log = structlog.get_logger()

crashpoint.register("history.before_seal", "a seal's root is computed, the seal is not stored")
crashpoint.register("history.sealed", "a seal is committed, nobody was told of it")

# Of one seal; a tree of so many leaves fits into memory, and verifying one never takes more.
LEAVES_MAX = 100_000
SEALS_PER_SWEEP = 3
LEAF_BYTES = 40

Callback = Callable[[Seal], Any]
_callbacks: list[Callback] = []


@dataclass(frozen=True)
class _Horizon:
    """The highest numbers given out at some moment, and the transactions that may yet commit one below them."""

    database: str
    event: int
    act: int
    writers: frozenset[str] = frozenset()


_noted: _Horizon | None = None


def seal_events() -> int:
    """Seal what no open transaction can add to any more; return how many seals were made. For the sweeper."""
    last = Seal.objects.order_by("-number").first()
    pause = timedelta(seconds=settings.WORKFLOWS["seal_seconds"])
    if last is not None and last.sealed_at > clock.now() - pause:
        return 0
    horizon = _safe_horizon()
    for made in range(SEALS_PER_SWEEP):
        seal = _next_seal(last, horizon) if horizon else None
        if seal is None:
            return made
        crashpoint("history.before_seal")
        # Another sweeper may have made this number meanwhile, of the same events: then this one comes to nothing.
        Seal.objects.bulk_create([seal], ignore_conflicts=True)
        if not Seal.objects.filter(number=seal.number, hash=seal.hash).exists():
            return made
        crashpoint("history.sealed")
        last = seal
    return SEALS_PER_SWEEP


def _safe_horizon() -> _Horizon | None:
    """Return numbers below which nothing will be added any more, or None while that isn't sure yet.

    A number is given out when a row is inserted and seen by others when its transaction commits: a row with a lower
    number may appear after one with a higher. So first the highest number is read, then the transactions that have
    inserted since before: an INSERT takes a lock on its table *before* it asks for a number, and keeps it to the end of
    its transaction. When all of those have ended, no number up to the one that was read is still on its way. CREATE
    INDEX CONCURRENTLY waits in the same manner. Nobody is held up by it.

    Not pg_snapshot_xmin: a number is given out before its transaction gets an id. Not pg_stat_activity.xact_start: the
    server's clock may be put back.

    On SQLite one transaction at a time writes, so whatever can be seen is final.
    """
    global _noted  # noqa: PLW0603 - a thought of this process; losing it costs one sweep
    noted, database = _noted, str(connection.settings_dict["NAME"])
    if noted is None or noted.database != database:
        event = Event.objects.aggregate(last=Max("pk"))["last"] or 0
        act = Act.objects.aggregate(last=Max("pk"))["last"] or 0
        noted = _Horizon(database, event, act, _writers())
        still_open = noted.writers
    else:
        # A prepared transaction goes on under another name; nobody here prepares one, but it would be missed.
        still_open = frozenset(name for name in _writers() if name in noted.writers or name.startswith("-1/"))
    _noted = noted if still_open else None
    return None if still_open else noted


def _writers() -> frozenset[str]:
    """Return the transactions, other than our own, that have inserted an event or an act and have not ended."""
    if connection.vendor != "postgresql":
        return frozenset()
    sql = """
        SELECT virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND relation IN (%s::regclass, %s::regclass) AND mode = 'RowExclusiveLock'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND pid IS DISTINCT FROM pg_backend_pid()"""
    with connection.cursor() as cursor:
        cursor.execute(sql, [Event._meta.db_table, Act._meta.db_table])
        return frozenset(name for (name,) in cursor.fetchall())


def _next_seal(last: Seal | None, horizon: _Horizon) -> Seal | None:
    first_event = last.last_event + 1 if last else 1
    first_act = last.last_act + 1 if last else 1
    events = _events_between(first_event, horizon.event, LEAVES_MAX)
    # Where there is more than one seal's worth, the next one goes on.
    last_event = events[-1][0] if len(events) == LEAVES_MAX else max(horizon.event, first_event - 1)
    acts = _acts_between(first_act, horizon.act, LEAVES_MAX)
    last_act = acts[-1][0] if len(acts) == LEAVES_MAX else max(horizon.act, first_act - 1)
    if not events and not acts:
        return None
    tree = MerkleTree(leaf for _, leaf in [*events, *acts])
    seal = Seal(
        number=last.number + 1 if last else 1,
        first_event=first_event,
        last_event=last_event,
        event_count=len(events),
        first_act=first_act,
        last_act=last_act,
        act_count=len(acts),
        root=tree.root.hex(),
        previous_hash=last.hash if last else "",
        sealed_at=clock.now(),
    )
    seal.hash = seal_digest(described_seal(seal))
    return seal


Leaf = tuple[int, bytes]


def _events_between(first: int, last: int, most: int) -> list[Leaf]:
    rows = Event.objects.filter(pk__gte=first, pk__lte=last).order_by("pk").values_list("pk", "hash")
    return [(pk, bytes.fromhex(text)) for pk, text in rows[:most]]


def _acts_between(first: int, last: int, most: int) -> list[Leaf]:
    rows = Act.objects.filter(pk__gte=first, pk__lte=last).order_by("pk")
    return [(act.pk, bytes.fromhex(hash_of_act(act))) for act in rows[:most]]


def hash_of_act(act: Act) -> str:
    return act_digest(act.pk, act.actor, act.action, act.target, act.reason, act.details, act.at)


def events_under(seal: Seal) -> list[Leaf]:
    """Return the leaves of the events that a seal covers, those of archived runs included, as the database has them."""
    live = _events_between(
        seal.first_event, seal.last_event, seal.event_count + 1
    )  # one that was put in shows
    blocks = list(ArchivedLeaves.objects.filter(seal=seal).values_list("data", flat=True))
    if not blocks:
        return live
    return sorted(
        {**{pk: leaf for block in blocks for pk, leaf in unpacked(bytes(block))}, **dict(live)}.items()
    )


def acts_under(seal: Seal) -> list[Leaf]:
    return _acts_between(seal.first_act, seal.last_act, seal.act_count + 1)


def packed(leaves: list[Leaf]) -> bytes:
    return b"".join(pk.to_bytes(8, "big") + leaf for pk, leaf in leaves)


def unpacked(block: bytes) -> list[Leaf]:
    pieces = (block[start : start + LEAF_BYTES] for start in range(0, len(block), LEAF_BYTES))
    return [(int.from_bytes(piece[:8], "big"), piece[8:]) for piece in pieces]


class SealedTree:
    """A seal with its tree, for as many proofs under it as one wants."""

    def __init__(self, seal: Seal) -> None:
        self.seal = seal
        events = events_under(seal)
        self._places = {pk: place for place, (pk, _) in enumerate(events)}
        self._tree = MerkleTree(leaf for _, leaf in [*events, *acts_under(seal)])

    def path_of(self, event_id: int) -> tuple[int, list[str]]:
        """Return the place of an event among the leaves, and its path to the root."""
        place = self._places[event_id]
        return place, [node.hex() for node in self._tree.path(place)]


def seal_over(event_id: int) -> Seal | None:
    """Return the seal that covers an event, or None as long as there is none."""
    return Seal.objects.filter(last_event__gte=event_id).order_by("last_event", "number").first()


def proof_of(event: Event) -> Proof:
    """Return the proof that an event stands under its seal: JSON that `verify_proof` checks without a database.

    The event carries the hash of the one before it, so the proof of a run's last event stands for its whole history.
    Raises NotPossibleError while the event is not sealed yet.
    """
    seal = seal_over(event.pk)
    if seal is None:
        raise NotPossibleError(f"event {event.pk} is not sealed yet; that takes a minute or so")
    index, path = SealedTree(seal).path_of(event.pk)
    return {"event": described_event(event), "seal": described_seal(seal), "index": index, "path": path}


def on_seal(callback: Callback) -> None:
    """Register what writes a seal's hash down where the owner of this database can't change it. Call it at start-up.

    It is given each seal, one after the other, and returns JSON that says where the hash now stands: that becomes
    `Seal.anchor`, for good. None, or an exception, means "not now", and it is asked again. Runs inside a transaction that
    commits with the anchor: a run that it starts there is started once. Anything outside must bear repetition, with
    `seal.number` as its key.
    """
    _callbacks.append(callback)


def anchor_seals(limit: int = 20) -> int:
    """Offer the seals that are not anchored to the callbacks, the oldest first; return how many were taken."""
    for anchored in range(limit if _callbacks else 0):
        if not _anchor_oldest():
            return anchored
    return limit if _callbacks else 0


def _anchor_oldest() -> bool:
    oldest = Seal.objects.filter(anchor__isnull=True).order_by("number").first()
    if oldest is None:
        return False
    with transaction.atomic():
        # Another sweeper that has it in hand is left alone.
        mine = Seal.objects.select_for_update(skip_locked=True).filter(pk=oldest.pk, anchor__isnull=True)
        seal = mine.first()
        anchor = _ask(seal) if seal else None
        if anchor is None:
            return False
        Seal.objects.filter(pk=oldest.pk, anchor__isnull=True).update(anchor=anchor)
    return True


def _ask(seal: Seal) -> Any:
    for callback in _callbacks:
        try:
            with transaction.atomic():
                anchor = callback(seal)
        except Exception:  # the others are asked all the same, and this one again
            log.exception("seal_not_anchored", seal=seal.number)
            continue
        if anchor is not None:
            return anchor
    return None
