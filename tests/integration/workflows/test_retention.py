"""Finished runs leave the database for a file that proves itself, and come back as they were. Never one that is needed."""

import gzip
import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.db.models import F

from tests.integration.workflows.tampering import (
    a_thief_with_the_keys_to_the_database,
    rewrite_history,
)
from tests.sample.workflows import Kept, KeptFamily, Ledger, SampleInput
from workflows import (
    ApprovalRequest,
    Approved,
    ArchiveError,
    Child,
    IdempotencyConflictError,
    NotPossibleError,
    RunArchivedError,
    Workflow,
    fork_run,
    restore_archive,
    send_signal,
    set_legal_hold,
    step,
    verify_archive,
    verify_archives,
    verify_history,
    verify_seals,
    vote,
)
from workflows.engine.acts import note_act
from workflows.engine.children import find_waiting_for_lost
from workflows.history import archiving, retention, seals
from workflows.history.archives import MODELS
from workflows.history.retention import archive_expired
from workflows.history.seals import seal_events
from workflows.models import (
    Act,
    Approval,
    ArchivedLeaves,
    ArchivedRun,
    DeadLetter,
    Event,
    Run,
    Seal,
    VirtualObjectState,
    Wait,
)

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
Drive = Callable[..., Run]
MONTH = timedelta(days=31)


class Asking(Workflow[SampleInput, Approved]):
    """Waits for people and has a large output: a row in nearly every table. Keeps its runs for a month."""

    class Meta:
        name, version, retention_days = "test.asking", 1, 30

    @step
    def ask(self, input: SampleInput) -> ApprovalRequest:
        return ApprovalRequest(group="treasury", show={"amount": 1.5e300})

    @step
    def write(self, input: SampleInput) -> str:
        return "x" * 100_000

    @step
    def answer(self, ask: Approved) -> Approved:
        return ask


class Waiting(Workflow[SampleInput, list[str]]):
    """Waits for two children at once; its own runs are kept for ever."""

    class Meta:
        name, version = "test.waiting_for_kept", 1

    @step
    def children(self, input: SampleInput) -> list[Child[str]]:
        return [Kept.child(input), Kept.child(input)]


@pytest.fixture(autouse=True)
def directory(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for archives; seals without a pause; sweepers that have not looked at anything yet."""
    settings.DALP_ARCHIVE_DIR = str(tmp_path / "archives")
    settings.WORKFLOWS = {**settings.WORKFLOWS, "seal_seconds": 0}
    monkeypatch.setattr(seals, "_noted", None)
    monkeypatch.setattr(retention, "_places", {})
    monkeypatch.setattr(retention, "_pause", retention._Pause())
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    return tmp_path / "archives"


def a_month_passes() -> None:
    """Seal everything, and let all that has ended have ended a month earlier."""
    Run.objects.filter(finished_at__isnull=False).update(
        finished_at=F("finished_at") - MONTH, created_at=F("created_at") - MONTH
    )
    while seal_events():
        pass


@pytest.fixture
def old(drive: Drive) -> Run:
    """A run that is past its retention and sealed."""
    run = drive(Kept.start(SampleInput(), idempotency_key="once"))
    a_month_passes()
    return run


def only_file(directory: Path) -> Path:
    [path] = list(directory.iterdir())
    return path


def everything() -> dict[str, list[dict[str, Any]]]:
    """Return all rows that an archive may hold."""
    return {
        kind: sorted(model._default_manager.values(), key=lambda row: str(row["id"]))
        for kind, model in MODELS.items()
        if model is not Act
    }


def sound() -> bool:
    return not [*verify_history(), *verify_seals(), *verify_archives()]


def test_a_run_past_its_retention_moves_into_a_file(old: Run, directory: Path) -> None:
    assert archive_expired() == 1
    assert not Run.objects.exists()
    assert not Event.objects.exists()
    [row] = ArchivedRun.objects.all()
    path = only_file(directory)
    contents = verify_archive(path)
    assert (row.run_id, row.file, row.sha256) == (old.pk, path.name, contents.sha256)
    assert contents.heads == {str(old.pk): (old.history_seq, old.history_hash)}
    assert contents.events == old.history_seq
    assert contents.seals == {1: Seal.objects.get().hash}
    assert sound()
    assert archive_expired() == 0


def test_nothing_leaves_without_a_directory_or_before_its_time_or_unsealed(
    old: Run, drive: Drive, settings: Any
) -> None:
    directory, settings.DALP_ARCHIVE_DIR = settings.DALP_ARCHIVE_DIR, ""
    assert archive_expired() == 0
    settings.DALP_ARCHIVE_DIR = directory
    young = drive(Kept.start(SampleInput()))
    unsealed = drive(Kept.start(SampleInput()))
    Run.objects.filter(pk=unsealed.pk).update(finished_at=F("finished_at") - MONTH)
    for_ever = drive(Ledger.start(SampleInput()))
    Run.objects.filter(pk=for_ever.pk).update(finished_at=F("finished_at") - MONTH)
    assert archive_expired() == 1
    assert set(Run.objects.values_list("pk", flat=True)) == {young.pk, unsealed.pk, for_ever.pk}


def test_a_run_comes_back_as_it_was(drive: Drive, directory: Path) -> None:
    """With a row in nearly every table: ids, instants, hashes, and what people did."""
    run = Asking.start(SampleInput())
    drive_until_it_asks(run)
    send_signal(run.pk, "note", {"text": "ü", "number": 7}, dedup_id="d", sender="bank")
    vote(Approval.objects.get().pk, actor="ada", groups=["treasury"], approve=True, reason="fine")
    drive(run)
    DeadLetter.objects.create(
        run=run, workflow=run.workflow, operation_id="x#0", reason="uncertain", error={}
    )
    note_act("ada", "look", f"run:{run.pk}", "to see", amount=0.1)
    a_month_passes()
    before, acts = everything(), list(Act.objects.values())
    assert {kind for kind, rows in before.items() if rows} == set(MODELS) - {"act"}
    assert archive_expired() == 1
    assert not any(everything().values())
    restored = restore_archive(only_file(directory), actor="eve", reason="an audit")
    assert restored.runs == 1
    assert Run.objects.get().legal_hold
    Run.objects.update(legal_hold=False)
    assert everything() == before
    assert list(Act.objects.exclude(action="restore").values()) == acts
    assert Act.objects.get(action="restore").actor == "eve"
    assert sound()


def drive_until_it_asks(run: Run) -> None:
    from workflows.engine.drive import advance

    advance(run.pk)
    assert Approval.objects.filter(run=run).exists()


def test_restored_runs_stay_until_somebody_lets_them_go_and_are_archived_again(
    old: Run, directory: Path
) -> None:
    assert archive_expired() == 1
    restore_archive(only_file(directory), actor="eve", reason="an audit")
    retention._places.clear()
    assert archive_expired() == 0
    set_legal_hold(old.pk, False, actor="eve", reason="done")
    retention._places.clear()
    assert archive_expired() == 1
    assert ArchivedRun.objects.filter(run_id=old.pk).count() in (1, 2)
    assert sound()


@pytest.mark.case("E46")
def test_a_family_leaves_together_or_not_at_all(drive_all: Drive, drive: Drive, directory: Path) -> None:
    parent = drive_all(KeptFamily.start(SampleInput()))
    a_month_passes()
    family = [parent, *Run.objects.filter(parent=parent)]
    assert len(family) == 5
    for member in family:
        set_legal_hold(member.pk, True, actor="ada", reason="a lawsuit")
        retention._places.clear()
        assert archive_expired() == 0, f"{member} is on hold"
        set_legal_hold(member.pk, False, actor="ada", reason="settled")
    Run.objects.filter(pk=family[1].pk).update(finished_at=F("finished_at") + MONTH)
    retention._places.clear()
    assert archive_expired() == 0, "the child is too young"
    Run.objects.filter(pk=family[1].pk).update(finished_at=F("finished_at") - MONTH)
    retention._places.clear()
    assert archive_expired() == 5
    assert sound()
    assert restore_archive(only_file(directory), actor="a", reason="b", run_id=family[3].pk).runs == 5
    assert sound()


@pytest.mark.case("E46")
def test_a_child_stays_as_long_as_its_parent_waits(drive: Drive) -> None:
    from workflows.engine.drive import advance

    parent = Waiting.start(SampleInput())
    advance(parent.pk)
    first, second = Run.objects.filter(parent=parent).order_by("pk")
    drive(first)
    a_month_passes()
    assert archive_expired() == 0
    with pytest.raises(DatabaseError), transaction.atomic():
        Run.objects.filter(pk=first.pk)._raw_delete("default")
        Event.objects.filter(run=first).delete()
    drive(second)
    assert drive(parent).output == [f"{first.pk}:only#0", f"{second.pk}:only#0"]


@pytest.mark.case("E46")
def test_a_parent_whose_child_is_gone_goes_to_a_person_and_on_when_it_is_back(
    drive: Drive, drive_all: Drive, directory: Path
) -> None:
    from workflows import replay_dead_letter
    from workflows.engine.drive import advance

    parent = Waiting.start(SampleInput())
    advance(parent.pk)
    child = drive(Run.objects.filter(parent=parent).earliest("pk"))
    other = Run.objects.filter(parent=parent).latest("pk")
    lone = drive(Kept.start(SampleInput()))
    assert find_waiting_for_lost() == 0
    # Somebody lets the child look as if it were nobody's, and it is archived.
    Run.objects.filter(pk=child.pk).update(parent=None)
    wait = Wait.objects.get(run=parent, reference=str(child.pk))
    Wait.objects.filter(pk=wait.pk).update(state="PENDING", result=None)
    a_month_passes()
    assert archive_expired() == 2
    assert lone.pk not in Run.objects.values_list("pk", flat=True)
    assert find_waiting_for_lost() == 1
    assert drive(parent).state == "DEAD_LETTER"
    letter = parent.dead_letters.get()
    assert (letter.reason, letter.error["code"]) == ("run_missing", "RUN_MISSING")
    assert str(child.pk) in letter.error["message"]
    assert find_waiting_for_lost() == 0, "a person has it already"
    restore_archive(only_file(directory), actor="eve", reason="a parent needs it", run_id=child.pk)
    replay_dead_letter(letter.pk, actor="eve", reason="it is back")
    drive(other)
    assert drive(parent).output == [f"{child.pk}:only#0", f"{other.pk}:only#0"]


@pytest.mark.case("E46")
def test_a_parent_whose_branch_is_gone_goes_to_a_person(drive: Drive, drive_all: Drive) -> None:
    from workflows.engine.drive import advance

    parent = KeptFamily.start(SampleInput())
    drive_all(parent, until=lambda run: Run.objects.filter(parent=run).exclude(branch="").exists())
    gone = Run.objects.get(parent=parent, branch="letters#1")
    assert gone.finished_at is None
    with a_thief_with_the_keys_to_the_database():
        Event.objects.filter(run=gone).delete()
        Run.objects.filter(pk=gone.pk)._raw_delete("default")
    for branch in Run.objects.filter(parent=parent).exclude(branch=""):
        advance(branch.pk)
    assert drive(parent).state == "DEAD_LETTER"
    assert parent.dead_letters.get().reason == "run_missing"


def test_a_fork_keeps_what_it_was_made_of(old: Run, drive: Drive, directory: Path) -> None:
    fork = fork_run(old.pk, "only", actor="ada", reason="once more")
    assert archive_expired() == 0, "the fork lives"
    drive(fork)
    retention._places.clear()
    assert archive_expired() == 0, "the fork is young"
    a_month_passes()
    retention._places.clear()
    assert archive_expired() == 2
    assert sound()
    assert restore_archive(only_file(directory), actor="a", reason="b", run_id=fork.pk).runs == 2


def test_a_run_that_holds_an_object_stays(old: Run, directory: Path) -> None:
    VirtualObjectState.objects.create(key="asset:X", holder=old)
    assert archive_expired() == 0
    assert not directory.exists(), "it was not even tried"
    VirtualObjectState.objects.all().delete()
    retention._places.clear()
    assert archive_expired() == 1


def test_what_may_not_go_does_not_stand_in_the_way(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "FAMILIES_PER_FILE", 2)
    runs = [drive(Kept.start(SampleInput())) for _ in range(5)]
    a_month_passes()
    for run in runs[:3]:
        VirtualObjectState.objects.create(key=str(run.pk), holder=run)
    assert archive_expired() == 2
    assert Run.objects.count() == 3
    VirtualObjectState.objects.all().delete()
    assert archive_expired() == 0, "it looks again, but not at every sweep"
    monkeypatch.setattr(retention, "LOOK_AGAIN_SECONDS", 0)
    assert archive_expired() == 0
    assert archive_expired() == 3


def test_many_runs_become_several_files(
    drive: Drive, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EVENTS_PER_FILE", 4)
    monkeypatch.setattr(retention, "FAMILIES_AT_ONCE", 1)
    for _ in range(4):
        drive(Kept.start(SampleInput()))
    a_month_passes()
    assert archive_expired() == 4
    assert len(list(directory.iterdir())) == 2
    assert sound()


def test_an_idempotency_key_stays_used_up(old: Run, directory: Path) -> None:
    assert archive_expired() == 1
    with pytest.raises(RunArchivedError, match="archived in") as refused:
        Kept.start(SampleInput(), idempotency_key="once")
    assert isinstance(refused.value, IdempotencyConflictError)
    assert refused.value.first_id == str(old.pk)
    assert not Run.objects.exists()
    Kept.start(SampleInput(), idempotency_key="twice")
    Kept.start(SampleInput(), idempotency_key="once", scope="another")
    restore_archive(only_file(directory), actor="a", reason="b")
    assert Kept.start(SampleInput(), idempotency_key="once").pk == old.pk


def test_a_hold_is_on_the_record_and_kept_by_the_database(old: Run) -> None:
    held = set_legal_hold(old.pk, True, actor="ada", reason="a lawsuit")
    set_legal_hold(old.pk, True, actor="ada", reason="twice changes nothing")
    assert held.legal_hold
    assert list(Act.objects.values_list("actor", "action", "target", "reason")) == [
        ("ada", "hold", f"run:{old.pk}", "a lawsuit")
    ]
    assert old.history_seq == Run.objects.get().history_seq
    assert archive_expired() == 0
    ArchivedRun.objects.create(
        run_id=old.pk, history_seq=1, finished_at=old.created_at, archived_at=old.created_at
    )
    with pytest.raises(DatabaseError), transaction.atomic():
        Event.objects.filter(run=old).delete()
    with pytest.raises(DatabaseError, match="legal hold"), transaction.atomic():
        Run.objects.filter(pk=old.pk)._raw_delete("default")


def test_a_hold_on_an_archived_run_is_refused(old: Run) -> None:
    assert archive_expired() == 1
    with pytest.raises(NotPossibleError, match="restore it"):
        set_legal_hold(old.pk, True, actor="ada", reason="too late")
    with pytest.raises(Run.DoesNotExist):
        set_legal_hold("00000000-0000-7000-8000-000000000000", True, actor="ada", reason="?")


def test_a_run_whose_history_does_not_hold_stays_for_people_to_see(old: Run, drive: Drive) -> None:
    good = drive(Kept.start(SampleInput()))
    a_month_passes()
    old.steps.update(output="forged")
    assert archive_expired() == 1
    assert list(Run.objects.all()) == [old]
    assert ArchivedRun.objects.get().run_id == good.pk


def test_a_history_made_anew_cannot_be_archived(old: Run) -> None:
    with a_thief_with_the_keys_to_the_database():
        rewrite_history(old, note="nothing happened")
    assert archive_expired() == 0
    assert list(verify_seals()) != []


def test_trouble_with_the_disk_deletes_nothing(
    old: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("workflows.history.archives.os.fsync", full)
        archive_expired()
    assert list(Run.objects.all()) == [old]
    assert list(directory.iterdir()) == []
    assert archive_expired() == 0, "it pauses"
    monkeypatch.setattr(retention, "_pause", retention._Pause())
    assert archive_expired() == 1


def test_an_archive_that_can_not_be_read_back_deletes_nothing(
    old: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = gzip.GzipFile.write

    def bit_flip(self: gzip.GzipFile, data: Any) -> int:
        return honest(self, bytes(data).replace(b"run_started", b"run_startet"))

    monkeypatch.setattr(gzip.GzipFile, "write", bit_flip)
    assert archive_expired() == 0
    assert Run.objects.exists()
    assert list(directory.iterdir()) == []


def test_the_same_runs_give_the_same_file(old: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash left behind is found again."""

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(archiving, "_note", dies)
        archive_expired()
    left = only_file(directory)
    assert list(Run.objects.all()) == [old]
    assert archive_expired() == 1
    assert only_file(directory) == left


# --- The file ---------------------------------------------------------------------------------------------


@pytest.fixture
def archive(old: Run, drive: Drive, directory: Path) -> Path:
    drive(Kept.start(SampleInput(key="other")))
    a_month_passes()
    assert archive_expired() == 2
    return only_file(directory)


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def write_lines(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(gzip.compress(b"".join(lines)))


def kinds_of(path: Path) -> list[str]:
    return [json.loads(line)[0] for line in lines_of(path)]


def test_every_altered_line_is_named(archive: Path) -> None:
    lines = lines_of(archive)
    for number in range(1, len(lines) + 1):
        changed = list(lines)
        changed[number - 1] = lines[number - 1].replace(b":", b": ", 1)  # the same JSON, in other bytes
        write_lines(archive, changed)
        with pytest.raises(ArchiveError) as refused:
            verify_archive(archive)
        assert refused.value.line == number


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:5],
        lambda lines: [],
        lambda lines: lines[:3] + lines[4:],
        lambda lines: [*lines, lines[-2]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines[:4], b"what\n", *lines[4:]],
    ],
    ids=["no end", "half", "empty", "one removed", "one too many", "swapped", "nonsense"],
)
def test_every_other_set_of_lines_is_refused(
    archive: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    write_lines(archive, change(lines_of(archive)))
    with pytest.raises(ArchiveError):
        verify_archive(archive)


def test_a_file_that_was_cut_off_or_is_no_gzip_is_refused(archive: Path) -> None:
    whole = archive.read_bytes()
    for part in (whole[:-10], whole[: len(whole) // 2], b"", b"PK" + whole):
        archive.write_bytes(part)
        with pytest.raises(ArchiveError):
            verify_archive(archive)


def rewritten(path: Path, kind: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the file anew with one row changed, and all marks and the digest of its end made to fit."""
    import hashlib

    digest, lines, changed = hashlib.sha256(), [], False
    for line in lines_of(path):
        found, row, _ = json.loads(line)
        if found == kind and not changed:
            changed = True
            change(row)
        if found == "end":
            row = {**row, "sha256": digest.hexdigest()}
        body = json.dumps([found, row], separators=(",", ":")).encode()
        digest.update(body)
        lines.append(body[:-1] + f',"{digest.hexdigest()[:16]}"]\n'.encode())
    assert changed
    write_lines(path, lines)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("event", lambda row: row["data"].update(workflow="another")),
        ("run", lambda row: row.update(input={"key": "changed"})),
        ("run", lambda row: row.update(output="changed")),
        ("run", lambda row: row.update(state="FAILED")),
        ("run", lambda row: row.update(id="00000000-0000-7000-8000-000000000000")),
        ("step", lambda row: row.update(output="changed")),
        ("seal", lambda row: row.update(root="0" * 64)),
        ("proof", lambda row: row.update(index=1 - row["index"])),
        ("proof", lambda row: row.update(path=[])),
        ("event", lambda row: row.pop("hash")),
    ],
)
def test_a_forger_who_makes_all_digests_fit_is_found_by_what_they_prove(
    archive: Path, kind: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    rewritten(archive, kind, change)
    with pytest.raises(ArchiveError):
        verify_archive(archive)


def test_a_forger_of_what_no_event_speaks_of_is_found_by_the_database(archive: Path) -> None:
    """Alone such a file holds; but it is not the one that was written."""
    rewritten(archive, "run", lambda row: row.update(correlation_id="another"))
    assert verify_archive(archive)
    assert [fault.problem for fault in verify_archives()] == ["is another file than the one that was written"]
    with pytest.raises(ArchiveError, match="is not the end of the file"):
        restore_archive(archive, actor="a", reason="b")
    assert not Run.objects.exists()


def test_an_archive_that_is_gone_is_missed(archive: Path) -> None:
    archive.unlink()
    [fault] = verify_archives()
    assert (fault.file, fault.line) == (archive.name, 0)
    assert "is missing" in fault.problem


def test_rows_that_say_otherwise_than_the_file_are_found(archive: Path) -> None:
    with a_thief_with_the_keys_to_the_database("workflows_archivedrun"):
        ArchivedRun.objects.filter(pk=ArchivedRun.objects.earliest("pk").pk).update(history_hash="0" * 64)
    [fault] = verify_archives()
    assert "as it was archived" in fault.problem


def test_leaves_that_were_altered_break_the_seal(archive: Path) -> None:
    leaves = ArchivedLeaves.objects.earliest("pk")
    with a_thief_with_the_keys_to_the_database("workflows_archivedleaves"):
        ArchivedLeaves.objects.filter(pk=leaves.pk).update(data=bytes(leaves.data)[40:])
    assert [fault.number for fault in verify_seals()] == [leaves.seal_id]


def test_restoring_refuses_what_is_here_already_and_changes_nothing(archive: Path) -> None:
    first = json.loads(lines_of(archive)[1])[1]["id"]
    restore_archive(archive, actor="a", reason="b", run_id=first)
    assert Run.objects.count() == 1
    with pytest.raises(ArchiveError, match="line 2 is here already"):
        restore_archive(archive, actor="a", reason="b")
    assert Run.objects.count() == 1
    with pytest.raises(ArchiveError, match="does not hold run"):
        restore_archive(archive, actor="a", reason="b", run_id="00000000-0000-7000-8000-000000000000")


def test_commands_say_what_they_found(archive: Path) -> None:
    out = io.StringIO()
    call_command("verify_archive", str(archive), stdout=out)
    assert "is whole: 2 runs with" in out.getvalue()
    out = io.StringIO()
    call_command("verify_archive", "--json", str(archive), stdout=out)
    assert json.loads(out.getvalue())["ok"] is True
    out = io.StringIO()
    call_command("restore_archive", str(archive), reason="an audit", actor="eve", stdout=out)
    assert out.getvalue().startswith("2 runs are back")
    with pytest.raises(CommandError, match="is here already"):
        call_command("restore_archive", str(archive), reason="again", stdout=io.StringIO())
    write_lines(archive, lines_of(archive)[:-1])
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("verify_archive", str(archive), stdout=out)
    assert "the end of the file was cut off" in out.getvalue()


def test_a_file_proves_itself_where_there_is_no_database(
    archive: Path, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        call_command("verify_archive", str(archive), stdout=io.StringIO())
