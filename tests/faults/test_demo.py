"""The demo from end to end, as `make demo ONCE=1` runs it: an issuance over a killed worker, judged by the chain."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalp.local.processes import Process, wait_until


def demo(directory: Path, *arguments: str) -> Process:
    command = [sys.executable, "-m", "dalp.local.demo", "--directory", directory / "demo", *arguments]
    return Process("demo", command, log=directory / "output")


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes started, directly or not, by `pid`."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = parents.get(pid, [])
    for child in found:
        yield child
        found.extend(parents.get(child, []))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.timeout(240)
def test_an_asset_is_issued_once_although_the_worker_is_killed(tmp_path: Path) -> None:
    process = demo(tmp_path, "--once")
    try:
        assert process.wait(200) == 0, process.output()
    finally:
        process.kill()
    said = process.output()
    assert re.search(r"Worker \d+ killed with SIGKILL", said)
    assert said.count("(minted once)") == 3
    assert "WRONG" not in said
    assert re.search(r"transactions, nonces 0 to \d+, each once", said)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_whatever_ends_the_demo_ends_every_process_it_started(tmp_path: Path, number: signal.Signals) -> None:
    process = demo(tmp_path)
    try:
        wait_until(
            (tmp_path / "demo/logs/web.log").exists, 60, what="all processes are started", alive=[process]
        )
        started = list(descendants(process.pid))
        assert len(started) >= 5  # redis, anvil, identity provider, worker, beat, web
        os.kill(process.pid, number)
        process.wait(30)
        wait_until(lambda: all(map(gone, started)), 5, what="all processes are gone")
    finally:
        process.kill()


def test_a_second_demo_in_the_same_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    first = demo(tmp_path)
    try:
        wait_until((tmp_path / "demo/logs").is_dir, 30, alive=[first])
        (tmp_path / "second").mkdir()
        command = [sys.executable, "-m", "dalp.local.demo", "--directory", tmp_path / "demo"]
        second = Process("second", command, log=tmp_path / "second/output")
        assert second.wait(30) == 1
        assert "Another demo runs in this directory: stop it with Ctrl-C first." in second.output()
    finally:
        first.stop()


def test_a_directory_that_is_not_the_demos_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/thesis.txt").write_text("three years of work")
    process = demo(tmp_path)
    assert process.wait(30) == 1
    assert "holds what no demo made: thesis.txt" in process.output()
    assert (tmp_path / "demo/thesis.txt").exists()
