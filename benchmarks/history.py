"""Measure the history at size: `python -m benchmarks.history --runs 100000` makes a million events.

Sealing, verify_audit, archiving, verifying an archive and restoring it, on PostgreSQL with fsync on, in one process.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.stage import Stage
from dalp.local.servers import start_postgres, start_redis

EVENTS_PER_RUN = 10
RUNS_PER_INSERT = 500


class Quiet(Stage):
    """The database alone: nobody works on it but this process."""

    def __enter__(self) -> "Quiet":
        with ExitStack() as opened:
            self.postgres = start_postgres()
            opened.callback(self.postgres.stop)
            self.redis = start_redis()
            opened.callback(self.redis.stop)
            self.prepare_database()
            self._opened = opened.pop_all()
        return self


def make_runs(count: int, ended: datetime) -> None:
    """Insert finished runs of eight steps, each with its history, as the engine would have left them."""
    from django.db import transaction

    from workflows.models import Event, Run, Step

    done = 0
    while done < count:
        runs, steps, events = [], [], []
        for _ in range(min(RUNS_PER_INSERT, count - done)):
            run, its_steps, its_events = make_run(ended)
            runs.append(run)
            steps += its_steps
            events += its_events
        with transaction.atomic():
            Run.objects.bulk_create(runs)
            Step.objects.bulk_create(steps)
            Event.objects.bulk_create(events)
        done += len(runs)


def make_run(at: datetime) -> tuple[Any, list[Any], list[Any]]:
    from workflows.history import Chain, output_digest
    from workflows.ids import uuid7
    from workflows.models import Run, Step

    stored = {"order": 7, "wallet": "0x" + "ab" * 20}
    run = Run(
        id=uuid7(), workflow="benchmark.kept", version=1, fingerprint="0" * 64, queue="workflows",
        operation="step_7#0", state="SUCCEEDED", input=stored, input_hash=output_digest(stored),
        correlation_id="0" * 32, created_at=at, finished_at=at,
    )  # fmt: skip
    chain, steps = Chain(run), []
    chain.add("run_started", at, workflow=run.workflow, version=1, input=run.input_hash, key="")
    for number in range(EVENTS_PER_RUN - 2):
        output = {"number": number, "receipt": "0x" + "cd" * 32}
        operation = f"step_{number}#0"
        steps.append(
            Step(
                run=run, operation_id=operation, name=f"step_{number}", seq=number, state="SUCCEEDED", attempt=1,
                output=output, started_at=at, finished_at=at,
            )
        )  # fmt: skip
        chain.add("step_succeeded", at, step=operation, attempt=1, output=output_digest(output))
    run.output = output
    chain.add("run_finished", at, state="SUCCEEDED", output=output_digest(output))
    run.history_seq, run.history_hash = chain.seq, chain.hash
    return run, steps, chain.take()


def timed(what: str, work: Callable[[], int], unit: str) -> dict[str, Any]:
    began = time.perf_counter()
    count = work()
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{what:32} {count:>12,} {unit:8} {seconds:>8.2f} s {count / seconds:>12,.0f} {unit}/s {memory:>6} MiB"
    )
    return {"what": what, "count": count, "unit": unit, "seconds": seconds, "peak_memory_mib": memory}


def measure(runs: int, directory: Path) -> Iterator[dict[str, Any]]:
    from django.conf import settings

    from workflows import restore_archive, verify_archive, verify_archives, verify_history, verify_seals
    from workflows.history import retention, seals
    from workflows.models import Event, Seal

    settings.DALP_ARCHIVE_DIR = str(directory)
    settings.WORKFLOWS["seal_seconds"] = 0
    define_kept()
    ended = datetime.now(UTC) - timedelta(days=40)

    def made() -> int:
        make_runs(runs, ended)
        return Event.objects.count()

    def sealed_one() -> int:
        seals.SEALS_PER_SWEEP = 1
        seals.seal_events()
        return Seal.objects.get().event_count

    def sealed_all() -> int:
        seals.SEALS_PER_SWEEP = 3
        while seals.seal_events():
            pass
        return sum(Seal.objects.filter(number__gt=1).values_list("event_count", flat=True))

    def verified() -> int:
        read = 0

        def count(events: int) -> None:
            nonlocal read
            read += events

        assert not list(verify_history(progress=count))
        return read

    def verified_seals() -> int:
        assert not list(verify_seals())
        return sum(Seal.objects.values_list("event_count", flat=True))

    def archived() -> int:
        retention.SECONDS_PER_SWEEP = 60.0
        return retention.archive_expired()

    yield timed("insert (not the engine's speed)", made, "events")
    yield timed("seal, the first", sealed_one, "events")
    if runs * EVENTS_PER_RUN > seals.LEAVES_MAX:
        yield timed("seal, all others", sealed_all, "events")
    yield timed("verify_audit: chains and rows", verified, "events")
    yield timed("verify_audit: seals", verified_seals, "events")
    row = timed("archive (at most a minute)", archived, "runs")
    files = sorted(directory.glob("*.jsonl.gz"))
    packed = sum(path.stat().st_size for path in files)
    plain = sum(_unpacked_size(path) for path in files[:1]) * len(files)
    rate = plain / row["seconds"] / 1e6
    print(
        f"{'':32} {len(files)} files, {packed / 1e6:,.1f} MB, {plain / 1e6:,.1f} MB unpacked: {rate:.1f} MB/s"
    )
    yield {**row, "files": len(files), "bytes": packed, "bytes_unpacked": plain}
    yield timed("verify_archive, one file", lambda: verify_archive(files[0]).events, "events")
    yield timed("verify_audit: archives", lambda: _count_archived(verify_archives), "events")
    yield timed("verify_audit: seals, again", verified_seals, "events")
    by = {"actor": "benchmark", "reason": "to see"}
    yield timed("restore_archive, one file", lambda: restore_archive(files[0], **by).rows, "rows")


def _unpacked_size(path: Path) -> int:
    import gzip

    with gzip.open(path) as file:
        return sum(map(len, file))


def _count_archived(verify: Callable[[], Iterator[object]]) -> int:
    from workflows.models import ArchivedRun

    assert not list(verify())
    return sum(ArchivedRun.objects.values_list("history_seq", flat=True))


def define_kept() -> None:
    """Register the workflow whose runs are archived."""
    from pydantic import BaseModel

    from workflows import Workflow, step

    class Nothing(BaseModel):
        pass

    class KeptForAMonth(Workflow[Nothing, int]):
        class Meta:
            name, version, retention_days = "benchmark.kept", 1, 30

        @step
        def step_0(self, input: Nothing) -> int:
            return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="finished runs of ten events each")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    with Quiet(), tempfile.TemporaryDirectory() as directory:
        found = list(measure(options.runs, Path(directory)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
