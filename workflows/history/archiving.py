"""Writing families of runs into an archive file, and deleting them: in this order, and in one transaction."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import connection

from workflows import clock
from workflows.crashpoints import crashpoint
from workflows.history.archives import FORMAT, TABLES, Draft
from workflows.history.checking import verify_archive
from workflows.history.families import Family, chunks, last_events
from workflows.history.proofs import described_seal
from workflows.history.seals import Leaf, SealedTree, packed, seal_over
from workflows.models import Act, ArchivedLeaves, ArchivedRun, Event, Run, Seal

crashpoint.register(
    "history.archive_written", "an archive is on disk under a passing name, no row is deleted"
)
crashpoint.register("history.archive_named", "an archive has its name, no row is deleted")
crashpoint.register("history.in_archiving", "the rows of archived runs are deleted, and not committed")

ROWS_PER_FETCH = 500


def archive_families(directory: Path, families: list[Family]) -> str:
    """Move the families, whose runs are locked, into a file; return its name. To be called in a transaction.

    The file is on disk under its name, and was read back, before the first row is deleted. A rollback leaves a file too
    many; the same families give a file of that name again. Raises ArchiveError when what would be archived does not hold:
    such a run stays.
    """
    runs = sorted((run for family in families for run in family.members), key=lambda run: run.pk)
    with Draft(directory) as draft:
        leaves = _write(draft, runs, len(families))
        sha256 = draft.end()
        verify_archive(draft.path)
        crashpoint("history.archive_written")
        newest = max(run.finished_at for run in runs if run.finished_at)
        name = f"{newest:%Y-%m-%d}-{sha256[:32]}.jsonl.gz"
        draft.keep(name)
    crashpoint("history.archive_named")
    _note(runs, leaves, name, sha256)
    _delete(runs)
    crashpoint("history.in_archiving")
    return name


def _write(draft: Draft, runs: list[Run], families: int) -> list[Leaf]:
    ids = [run.pk for run in runs]
    draft.write("archive", {"format": FORMAT, "runs": len(runs), "families": families})
    leaves: list[Leaf] = []
    for kind, model, path in TABLES:
        for row in _rows(model, path, ids):
            draft.write(kind, row)
            if kind == "event":
                leaves.append((row["id"], bytes.fromhex(row["hash"])))
    for chunk in chunks(ids):
        acts = Act.objects.filter(target__in=[f"run:{pk}" for pk in chunk]).order_by("pk")
        for row in _dicts(acts, Act):
            draft.write("act", row)
    _write_proofs(draft, last_events(ids))
    return sorted(leaves)


def _rows(model: Any, path: str, ids: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some runs. Locked: what stands in the file is what is deleted."""
    order = ("run_id", "seq") if model is Event else ("pk",)
    for chunk in chunks(ids):
        rows = model.objects.filter(**{f"{path}__in": chunk}).order_by(*order)
        # Runs are locked already, and events never change.
        yield from _dicts(rows if model in (Run, Event) else rows.select_for_update(), model)


def _dicts(rows: Any, model: Any) -> Iterator[dict[str, Any]]:
    names = [field.attname for field in model._meta.concrete_fields]
    for values in rows.values_list(*names).iterator(chunk_size=ROWS_PER_FETCH):
        yield dict(zip(names, values, strict=True))


def _write_proofs(draft: Draft, heads: dict[Any, int]) -> None:
    tree: SealedTree | None = None
    for event_id, run_id in sorted((event_id, run_id) for run_id, event_id in heads.items()):
        if tree is None or event_id > tree.seal.last_event:
            tree = SealedTree(_seal_over(event_id))
            draft.write("seal", described_seal(tree.seal))
        index, path = tree.path_of(event_id)
        draft.write("proof", {"run_id": run_id, "seal": tree.seal.number, "index": index, "path": path})


def _seal_over(event_id: int) -> Seal:
    seal = seal_over(event_id)
    assert seal is not None, "an unsealed run was to be archived"
    return seal


def _note(runs: list[Run], leaves: list[Leaf], name: str, sha256: str) -> None:
    """Leave behind where the runs are, and what is needed to compute the seals without them."""
    at = clock.now()
    noted = [
        ArchivedRun(
            run_id=run.pk,
            workflow=run.workflow,
            state=run.state,
            scope=run.scope,
            idempotency_key=run.idempotency_key,
            input_hash=run.input_hash,
            history_seq=run.history_seq,
            history_hash=run.history_hash,
            finished_at=run.finished_at or at,
            file=name,
            sha256=sha256,
            archived_at=at,
        )
        for run in runs
    ]
    # Restored and archived again without a change between, they are noted already.
    ArchivedRun.objects.bulk_create(noted, batch_size=1000, ignore_conflicts=True)
    parts = [ArchivedLeaves(seal=seal, sha256=sha256, data=packed(part)) for seal, part in _by_seal(leaves)]
    ArchivedLeaves.objects.bulk_create(parts, ignore_conflicts=True)


def _by_seal(leaves: list[Leaf]) -> Iterator[tuple[Seal, list[Leaf]]]:
    start = 0
    while start < len(leaves):
        seal, end = _seal_over(leaves[start][0]), start
        while end < len(leaves) and leaves[end][0] <= seal.last_event:
            end += 1
        yield seal, leaves[start:end]
        start = end


def _delete(runs: list[Run]) -> None:
    deleted = 0
    for chunk in chunks([run.pk for run in runs]):
        for _, model, path in reversed(TABLES[1:]):
            model._default_manager.filter(**{f"{path}__in": chunk}).delete()
        rows = Run.objects.filter(pk__in=chunk)
        # Not through Django's collector: runs refer to one another, and all of a family go together.
        deleted += rows._raw_delete(rows.db)
    assert deleted == len(runs), "a locked run has vanished"
    if connection.vendor == "postgresql":
        connection.check_constraints()  # now, when the caller may yet turn back, rather than at the commit
