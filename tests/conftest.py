"""Fixtures that every test may use. See tests/services.py for what stands behind them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from dalp.local import processes, servers
from tests import cases, leaks, softhsm
from tests.services import Live, Services, switched_to
from tests.warm import Nursery

if TYPE_CHECKING:
    from tests.integration.workflows.stopped import Script

SERVICES = Services()
NURSERY = Nursery()
# What is not tested because something is missing here, said at the beginning and at the end.
WARNINGS = [warning for warning in (SERVICES.warning, softhsm.missing()) if warning]
processes.launch = NURSERY.launch
os.environ.update(SERVICES.environment())

# pytest-django sets Django up when the settings are loaded by the time pytest is configured, not before.
from django.conf import settings  # noqa: E402
from django.test.signals import setting_changed  # noqa: E402

settings.DATABASES  # noqa: B018

TEST_DATABASE, TEMPLATE_DATABASE = "test_dalp", "template_dalp"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(leaks)
    leaks.WATCH.learn("a PIN", softhsm.PIN, softhsm.SO_PIN, "not-the-pin-2026", "wrong-pin-0000")
    leaks.WATCH.learn_settings(os.environ)
    # What some test sets, for its own time.
    setting_changed.connect(_learn_setting, weak=False)


def _learn_setting(*, setting: str, value: Any, **_: Any) -> None:
    leaks.WATCH.learn_setting(setting, value)


def pytest_report_header() -> list[str]:
    return [line for line in (f"database: {SERVICES.database}", *WARNINGS) if line]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = cases.titles()
    for item in items:
        for mark in item.iter_markers("case"):
            if unknown := [case for case in mark.args if case not in known]:
                raise pytest.UsageError(f"{item.nodeid}: no such failure case in tests/cases.txt: {unknown}")
        if SERVICES.database != "postgresql":
            for mark in item.iter_markers("postgresql"):
                item.add_marker(pytest.mark.skip(reason=mark.args[0]))
    # What may take longest begins first, so that no process is left with it at the end. Each process is given one part of
    # the list, in one piece: they are dealt out like cards.
    items.sort(key=lambda item: -_patience(item))
    processes_beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = [item for first in range(processes_beside) for item in items[first::processes_beside]]


def _patience(item: pytest.Item) -> float:
    """Return how many seconds more than the others a test may take."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark else 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for warning in WARNINGS:
        terminalreporter.write_line(warning, red=True, bold=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let each of the processes beside one another choose its own servers, before its Django reads where they are."""
    for name in SERVICES.environment():
        os.environ.pop(name, None)


def pytest_unconfigure() -> None:
    SERVICES.stop()
    NURSERY.close()


@pytest.fixture(scope="session")
def services() -> Services:
    return SERVICES


@pytest.fixture(scope="session")
def redis_server() -> servers.RedisServer:
    """The Redis that this process's settings name; tests that stop it must start it again."""
    return SERVICES.start_redis()


@pytest.fixture(scope="session")
def redis_url(redis_server: servers.RedisServer) -> str:
    return redis_server.url


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    SERVICES.start_database()
    # On disk, not in memory: other processes and threads must see the same database.
    settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = SERVICES.database_name(TEST_DATABASE)


@pytest.fixture(scope="session")
def template_db(django_db_blocker: DjangoDbBlocker) -> str:
    """A migrated database that no test writes to, from which `fresh_db` copies."""
    from django.core.management import call_command

    SERVICES.start_database()
    SERVICES.create_database(TEMPLATE_DATABASE)
    with django_db_blocker.unblock(), switched_to(SERVICES.database_name(TEMPLATE_DATABASE)):
        call_command("migrate", run_syncdb=True, verbosity=0)
    return TEMPLATE_DATABASE


@pytest.fixture
def fresh_db(
    template_db: str, django_db_blocker: DjangoDbBlocker, redis_server: servers.RedisServer
) -> Iterator[str]:
    """A database for this test alone, really committed to, from any thread or process; yields its name.

    For what `db` cannot do: no transaction is wrapped around the test, and nothing is flushed afterwards, which the
    history tables would refuse. Not together with `db` or `transactional_db`.
    """
    name = f"fresh_{next(SERVICES.counter)}"
    with django_db_blocker.unblock():
        SERVICES.copy_database(template_db, name)
        with switched_to(SERVICES.database_name(name)):
            yield name
        SERVICES.drop_database(name)


@pytest.fixture
def live(fresh_db: str, redis_server: servers.RedisServer, tmp_path: Path) -> Iterator[Live]:
    """Real worker processes on a database of this test's own: `live.start_worker(fault="engine.claimed=exit")`."""
    redis_server.client().flushall()
    # The directory names the logs, and so the workers: unique even when two tests run side by side.
    stage = Live(SERVICES, redis_server, fresh_db, tmp_path)
    try:
        yield stage
    finally:
        stage.stop()


@pytest.fixture
def start_anvil() -> Iterator[Callable[..., servers.AnvilServer]]:
    """Start chains for this test; options as of dalp.local.servers.start_anvil."""
    chains: list[servers.AnvilServer] = []

    def start(**options: Any) -> servers.AnvilServer:
        chains.append(servers.start_anvil(**options))
        return chains[-1]

    yield start
    for chain in chains:
        chain.stop()


@pytest.fixture
def anvil(start_anvil: Callable[..., servers.AnvilServer]) -> servers.AnvilServer:
    """A fresh chain, id 31337, that mines a block for each transaction. `.url`, `.rpc("eth_blockNumber")`."""
    return start_anvil()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Script]":
    """What the steps of the workflows in `stopped` do, afresh. Nobody answers a doorbell."""
    from tests.integration.workflows import stopped  # it needs Django's models

    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    stopped.script.clear()
    yield stopped.script
    stopped.script.clear()
