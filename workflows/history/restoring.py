"""Putting archived runs back as they were: the same ids, instants and hashes.

They come back on legal hold, since otherwise the next sweep would archive them again; releasing them lets it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, models, transaction

from workflows.engine.acts import note_act
from workflows.errors import ArchiveError
from workflows.history.archives import MODELS, Line, read_archive
from workflows.history.checking import Contents, verify_archive
from workflows.history.families import chunks
from workflows.models import Act, ArchivedRun, Run, Seal

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Restored:
    """What was put back."""

    runs: int
    rows: int


def restore_archive(path: Path, *, actor: str, reason: str, run_id: Any = None) -> Restored:
    """Put the runs of an archive back, all of them or the family of one; return how many.

    All or nothing. Raises ArchiveError, which names the line, when the file was altered or is not the one that this
    database knows, does not hold the run, or when something of it is here already.
    """
    contents = verify_archive(path)
    _require_known(path, contents)
    choice = _Choice(path, str(run_id)) if run_id is not None else None
    rows = 0
    runs: list[str] = []
    with transaction.atomic():
        for kind, lines in groupby(_lines(path, contents.sha256), lambda line: line.kind):
            for chunk in chunks(
                (line for line in lines if choice is None or choice.takes(line)), ROWS_AT_ONCE
            ):
                rows += _put_back(path, MODELS[kind], chunk)
                runs += [line.row["id"] for line in chunk if kind == "run"]
        for pk in runs:
            note_act(actor, "restore", f"run:{pk}", reason, file=path.name)
    return Restored(len(runs), rows)


def _require_known(path: Path, contents: Contents) -> None:
    """Refuse a file that proves itself, but is not what was archived here."""
    known: dict[str, set[str]] = {}
    for chunk in chunks(contents.heads):
        for run_id, sha256 in ArchivedRun.objects.filter(run_id__in=chunk).values_list("run_id", "sha256"):
            known.setdefault(str(run_id), set()).add(sha256)
    for archived, digests in known.items():
        if contents.sha256 not in digests:
            raise ArchiveError(
                path.name, contents.lines, f"is not the end of the file in which run {archived} was archived"
            )
    seals = dict(Seal.objects.filter(number__in=contents.seals).values_list("number", "hash"))
    for number, digest in seals.items():
        if contents.seals[number] != digest:
            raise ArchiveError(
                path.name, contents.lines, f"ends a file that relies on another seal {number} than ours"
            )


def _lines(path: Path, sha256: str) -> Iterator[Line]:
    for line in read_archive(path):
        if line.kind in MODELS:
            yield line
        elif line.kind == "end" and line.row["sha256"] != sha256:
            raise ArchiveError(path.name, line.number, "was changed while it was read")


class _Choice:
    """One run of an archive and those that were archived because of it."""

    def __init__(self, path: Path, run_id: str) -> None:
        ties = _ties(path)
        if run_id not in ties:
            raise ArchiveError(path.name, 1, f"begins a file that does not hold run {run_id}")
        self._runs, frontier = {run_id}, [run_id]
        while frontier:
            near = ties[frontier.pop()] - self._runs
            self._runs |= near
            frontier += near
        self._approvals: set[str] = set()

    def takes(self, line: Line) -> bool:
        row = line.row
        match line.kind:
            case "run":
                return row["id"] in self._runs
            case "vote":
                return row["approval_id"] in self._approvals
            case "act":
                return str(row["target"]).removeprefix("run:") in self._runs
        taken = row["run_id"] in self._runs
        if taken and line.kind == "approval":
            self._approvals.add(row["id"])
        return taken


def _ties(path: Path) -> dict[str, set[str]]:
    """Return for each run of the file those that it refers to or that refer to it."""
    ties: dict[str, set[str]] = {}
    for line in read_archive(path):
        if line.kind == "run":
            pk = line.row["id"]
            ties.setdefault(pk, set())
            for other in filter(None, (line.row["parent_id"], line.row["forked_from_id"])):
                ties[pk].add(other)
                ties.setdefault(other, set()).add(pk)
    return ties


def _put_back(path: Path, model: type[models.Model], lines: list[Line]) -> int:
    """Insert the rows of some lines; return how many. Of acts only those that are missing: they were never deleted."""
    objects = {line.number: _object(path, model, line) for line in lines}
    here = model._default_manager.in_bulk([each.pk for each in objects.values()])
    for number, each in objects.items():
        if each.pk in here and not (model is Act and _same(each, here[each.pk])):
            raise ArchiveError(path.name, number, f"is here already: {model._meta.verbose_name} {each.pk}")
    missing = [each for each in objects.values() if each.pk not in here]
    try:
        with transaction.atomic():
            model._default_manager.bulk_create(missing)
    except (DatabaseError, ValueError) as error:
        problem = f"or one of the {len(lines)} from it on can't be stored here: {error}"
        raise ArchiveError(path.name, lines[0].number, problem) from None
    _catch_up(model, [each.pk for each in missing])
    return len(missing)


def _object(path: Path, model: type[models.Model], line: Line) -> models.Model:
    fields = {field.attname: field for field in model._meta.concrete_fields}
    unknown = line.row.keys() - fields.keys()
    if unknown:
        raise ArchiveError(
            path.name, line.number, f"has columns that are unknown here: {', '.join(sorted(unknown))}"
        )
    try:
        values = {name: fields[name].to_python(value) for name, value in line.row.items()}
    except ValidationError as error:
        raise ArchiveError(path.name, line.number, f"can't be read: {'; '.join(error.messages)}") from None
    restored = model(**values)
    if isinstance(restored, Run):
        restored.legal_hold = True
    return restored


def _same(one: models.Model, other: models.Model) -> bool:
    names = [field.attname for field in one._meta.concrete_fields]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _catch_up(model: type[models.Model], pks: list[Any]) -> None:
    """Let the database count on from the highest number that came back. It is beyond it, except in a database made anew."""
    if connection.vendor != "postgresql" or not isinstance(model._meta.pk, models.AutoField) or not pks:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", [model._meta.db_table, model._meta.pk.column])
        sequence = cursor.fetchone()[0]
        cursor.execute(f"SELECT last_value FROM {sequence}")  # noqa: S608 - the database's own name for it
        if cursor.fetchone()[0] < max(pks):
            cursor.execute("SELECT setval(%s, %s)", [sequence, max(pks)])
