"""Which runs may leave the database only together, and whether they may leave now.

A *family*: a run with its branches, its children and its forks, and theirs. It may go when every member has ended, is past
the retention of its own workflow and under a seal, when none is on legal hold, and when no other row refers to any.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from django.db.models import F, ForeignObjectRel, QuerySet

from workflows import clock
from workflows.definition import find_definition
from workflows.history.archives import TABLES
from workflows.models import Event, Run, Seal

T = TypeVar("T")

IDS_PER_QUERY = 500
COLUMNS = (
    "workflow", "state", "scope", "idempotency_key", "input_hash", "parent", "forked_from", "finished_at",
    "legal_hold", "history_seq", "history_hash",
)  # fmt: skip


def chunks(items: Iterable[T], size: int = IDS_PER_QUERY) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


@dataclass
class Family:
    """Runs that belong together; `whole` is False when somebody else has one of them locked."""

    members: list[Run] = field(default_factory=list)
    whole: bool = True

    @property
    def events(self) -> int:
        return sum(run.history_seq for run in self.members)


def lock_families(ids: Iterable[Any]) -> list[Family]:
    """Lock the runs and their families for the rest of the transaction; return the families that may go now.

    A run is locked before its children and forks are looked for: inserting one takes a lock on the run it refers to, so
    none can come later. Nobody is waited for: a family that somebody else has in hand is left for another time.
    """
    families = [
        family for family in _locked(list(ids)) if family.whole and all(map(_has_expired, family.members))
    ]
    everybody = [run.pk for family in families for run in family.members]
    needed = _unsealed(everybody) | _referred_to(everybody)
    return [family for family in families if needed.isdisjoint(run.pk for run in family.members)]


def _locked(ids: list[Any]) -> list[Family]:
    groups = _Groups()
    found: dict[Any, Run] = {}
    refused: set[Any] = set()
    frontier = list(dict.fromkeys(ids))
    while frontier:
        locked = _lock(frontier)
        found |= locked
        refused |= set(frontier) - locked.keys()
        for one, other in _ties(locked):
            groups.join(one, other)
        frontier = [pk for pk in groups.members() if pk not in found and pk not in refused]
    families: dict[Any, Family] = {}
    for pk in [*found, *refused]:
        family = families.setdefault(groups.head_of(pk), Family())
        if pk in found:
            family.members.append(found[pk])
        else:
            family.whole = False
    return list(families.values())


def _lock(ids: list[Any]) -> dict[Any, Run]:
    locked: dict[Any, Run] = {}
    for chunk in chunks(ids):
        rows = Run.objects.select_for_update(skip_locked=True).only(*COLUMNS).filter(pk__in=chunk)
        locked |= {run.pk: run for run in rows.order_by("pk")}
    return locked


def _ties(locked: dict[Any, Run]) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of runs that belong together, of which one is among those given.

    Not of those that somebody else has: of two who want a family, the one that has its head must get the rest, too.
    """
    for run in locked.values():
        yield run.pk, run.pk
        for other in (run.parent_id, run.forked_from_id):
            if other is not None:
                yield run.pk, other
    for chunk in chunks(locked):
        yield from Run.objects.filter(parent_id__in=chunk).values_list("parent_id", "pk")
        yield from Run.objects.filter(forked_from_id__in=chunk).values_list("forked_from_id", "pk")


class _Groups:
    """Disjoint sets."""

    def __init__(self) -> None:
        self._above: dict[Any, Any] = {}

    def head_of(self, item: Any) -> Any:
        head = self._above.setdefault(item, item)
        while self._above[head] != head:
            head = self._above[head]
        self._above[item] = head
        return head

    def join(self, one: Any, other: Any) -> None:
        self._above[self.head_of(one)] = self.head_of(other)

    def members(self) -> list[Any]:
        return list(self._above)


def _has_expired(run: Run) -> bool:
    definition = find_definition(run.workflow)
    if definition is None or definition.retention_days is None or run.finished_at is None or run.legal_hold:
        return False
    return run.finished_at <= clock.now() - timedelta(days=definition.retention_days)


def last_events(ids: Iterable[Any]) -> dict[Any, int]:
    """Return the number of each run's last event."""
    found: dict[Any, int] = {}
    for chunk in chunks(ids):
        heads = Event.objects.filter(run_id__in=chunk, seq=F("run__history_seq"))
        found |= dict(heads.values_list("run_id", "pk"))
    return found


def _unsealed(ids: list[Any]) -> set[Any]:
    last = Seal.objects.order_by("-number").first()
    sealed = last.last_event if last else 0
    heads = last_events(ids)
    return {pk for pk in ids if heads.get(pk, sealed + 1) > sealed}


def _referred_to(ids: list[Any]) -> set[Any]:
    """Return those of the runs to which, or to whose rows, another table refers: a virtual object that one holds, say."""
    return {
        run_id
        for rows, path in _references()
        for chunk in chunks(ids)
        for run_id in rows.filter(**{f"{path}__in": chunk}).values_list(path, flat=True)
    }


@lru_cache(maxsize=1)
def _references() -> list[tuple["QuerySet[Any]", str]]:
    """Return the tables that are not archived and refer to some that are, each with its way to the run's id."""
    archived = {model for _, model, _ in TABLES}
    found = []
    for _, model, path in TABLES:
        for relation in model._meta.get_fields(include_hidden=True):
            if not isinstance(relation, ForeignObjectRel):
                continue
            referring: Any = relation.related_model
            # Without a constraint the database doesn't mind, and the other table has said that it doesn't either.
            if referring not in archived and getattr(relation.field, "db_constraint", False):
                found.append((referring._default_manager.all(), f"{relation.field.name}__{path}"))
    return found
