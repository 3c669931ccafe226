"""Has anybody altered what stands over the runs' own chains: the seals and the archives?

A seal's root is computed anew from the events and acts that it covers. That finds what left no trace in the chains: a run
that is gone with all its events, the newest events cut off, a chain made anew with its head. Each archive file is
verified, and held against what is left of its runs here and against the seals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workflows.errors import ArchiveError
from workflows.history.checking import Contents, verify_archive
from workflows.history.digests import seal_digest
from workflows.history.merkle import MerkleTree
from workflows.history.proofs import described_seal
from workflows.history.retention import archive_directory
from workflows.history.seals import acts_under, events_under
from workflows.history.verification import Progress
from workflows.models import ArchivedRun, Seal


@dataclass(frozen=True)
class SealFault:
    """A seal that does not hold."""

    number: int
    problem: str

    def __str__(self) -> str:
        return f"seal {self.number}: {self.problem}"


@dataclass(frozen=True)
class ArchiveFault:
    """An archive file that is not what it was; line 0 for the file as a whole."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return (
            f"archive {self.file}, line {self.line}: {self.problem}"
            if self.line
            else f"archive {self.file} {self.problem}"
        )


def verify_seals(
    *, progress: Progress | None = None, noted: dict[int, str] | None = None
) -> Iterator[SealFault]:
    """Compute every seal anew and yield the first fault of each that has one.

    noted: hashes of seals by their numbers, as somebody wrote them down elsewhere: they must still be here.
    """
    previous: Seal | None = None
    missing = dict(noted or {})
    for seal in _all_seals():
        problem = _problem_of(seal, previous)
        if problem is None and missing.get(seal.number, seal.hash) != seal.hash:
            problem = "has not the hash that was noted elsewhere: it was made anew"
        missing.pop(seal.number, None)
        if problem is not None:
            yield SealFault(seal.number, problem)
        if progress is not None:
            progress(seal.event_count)
        previous = seal
    for number in sorted(missing):
        yield SealFault(number, "is missing: it was noted elsewhere, and was removed here")


def _all_seals() -> Iterator[Seal]:
    last = 0
    while chunk := list(Seal.objects.filter(number__gt=last).order_by("number")[:500]):
        yield from chunk
        last = chunk[-1].number


def _problem_of(seal: Seal, previous: Seal | None) -> str | None:
    number, hash_before = (previous.number, previous.hash) if previous else (0, "")
    last_event, last_act = (previous.last_event, previous.last_act) if previous else (0, 0)
    if seal.number != number + 1:
        return f"seal {number + 1} is missing before it"
    if seal.previous_hash != hash_before:
        return "does not follow the seal before it"
    if seal.hash != seal_digest(described_seal(seal)):
        return "altered: its content does not give its hash"
    if (seal.first_event, seal.first_act) != (last_event + 1, last_act + 1):
        return "does not begin where the seal before it ends"
    return _problem_under(seal)


def _problem_under(seal: Seal) -> str | None:
    events, acts = events_under(seal), acts_under(seal)
    for what, found, count, first, last in (
        ("event", len(events), seal.event_count, seal.first_event, seal.last_event),
        ("act", len(acts), seal.act_count, seal.first_act, seal.last_act),
    ):
        if found != count:
            change = f"{count - found:,} removed" if found < count else f"{found - count:,} put in"
            return f"covers {count:,} {what}s, number {first:,} to {last:,}, of which {found:,} are here: {change}"
    if MerkleTree(leaf for _, leaf in [*events, *acts]).root.hex() != seal.root:
        return (
            f"its root is not that of events {seal.first_event:,} to {seal.last_event:,} and acts {seal.first_act:,} to "
            f"{seal.last_act:,}: one of them was altered, or another put in its place"
        )
    return None


def verify_archives(directory: Path | None = None) -> Iterator[ArchiveFault]:
    """Verify the files of all archived runs and yield the first fault of each file that has one.

    directory: where they are; DALP_ARCHIVE_DIR by default.
    """
    directory = directory or archive_directory() or Path()
    files = ArchivedRun.objects.order_by("file").values_list("file", "sha256").distinct()
    for file, sha256 in files.iterator(chunk_size=500):
        problem = _problem_in(directory / file, sha256)
        if problem is not None:
            yield problem


def _problem_in(path: Path, sha256: str) -> ArchiveFault | None:
    if not path.is_file():
        return ArchiveFault(path.name, 0, f"is missing in {path.parent}")
    try:
        contents = verify_archive(path)
    except ArchiveError as error:
        return ArchiveFault(error.file, error.line, error.problem)
    if contents.sha256 != sha256:
        return ArchiveFault(path.name, 0, "is another file than the one that was written")
    return _difference(path.name, contents)


def _difference(file: str, contents: Contents) -> ArchiveFault | None:
    """Hold a file that proved true against the rows."""
    rows = ArchivedRun.objects.filter(file=file).values_list("run_id", "history_seq", "history_hash")
    here = {str(run_id): (seq, head) for run_id, seq, head in rows}
    if here != contents.heads:
        run_id = min(dict(here.items() ^ contents.heads.items()))
        return ArchiveFault(file, 0, f"does not hold run {run_id} as it was archived")
    seals = dict(Seal.objects.filter(number__in=contents.seals).values_list("number", "hash"))
    for number, head in contents.seals.items():
        if seals.get(number) != head:
            return ArchiveFault(file, 0, f"is proved by a seal {number} that is not the one here")
    return None
