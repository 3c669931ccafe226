"""The database and the broker misbehave under the engine: nothing is lost, and nothing is done twice."""

import shutil
import signal
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from django.db import connection, connections

from dalp.local import servers
from dalp.local.processes import Process, wait_until
from tests.faults.held.workflows import Held, HeldInput
from tests.faults.test_engine import QUICK, each_step_once, effects, settle
from tests.sample.workflows import Ledger, SampleInput
from tests.services import Live, Services
from workflows import verify_history
from workflows.models import Run
from workflows.states import RunState

HELD = {"DALP_APPS": "tests.sample,tests.faults.held"}
on_a_server = pytest.mark.postgresql("SQLite has no server that could misbehave")


@pytest.fixture
def postgres(services: Services) -> servers.PostgresServer:
    assert services.postgres
    return services.postgres


def calls(live: Live) -> list[str]:
    file = live.directory / "calls"
    return file.read_text().split() if file.exists() else []


def hold(live: Live, **env: str) -> tuple[Run, Process]:
    """Start a run and wait until a worker is in the middle of its first step."""
    worker = live.start_worker(env={**HELD, **env})
    run: Run = Held.start(HeldInput(directory=str(live.directory)))
    live.wait_until(lambda: calls(live), 20, what="the step begins")
    return run, worker


def let_go(live: Live) -> None:
    (live.directory / "go").touch()


@pytest.mark.case("E9")
@on_a_server
def test_worker_frozen_inside_a_transaction_frees_its_locks(
    live: Live, postgres: servers.PostgresServer
) -> None:
    """It holds the run's row: without the server's patience running out, nobody could ever take it over."""
    patience = quote("-c idle_in_transaction_session_timeout=3s -c lock_timeout=1s")
    env = {**QUICK, "DATABASE_URL": f"{live.env['DATABASE_URL']}?options={patience}"}
    frozen = live.start_worker(fault="engine.in_record=stop", env=env)
    run = Ledger.start(SampleInput())
    live.wait_until(lambda: frozen.stopped, 20, what="the worker freezes")
    live.redis.client().flushall()
    live.start_worker(env=env)
    settle(live, run)
    frozen.thaw()
    live.wait_until(
        lambda: (
            "fenced" in frozen.output()
            or "transaction_repeated" in frozen.output()
            or "record_retried" in frozen.output()
        ),
        20,
        what="the thawed worker notices",
    )
    assert run.state == RunState.SUCCEEDED
    assert effects(run) == each_step_once(run)
    assert list(verify_history()) == []


@pytest.mark.case("E11")
@pytest.mark.sqlite_too
def test_run_started_while_redis_is_down_is_found_when_it_is_back(live: Live) -> None:
    live.redis.kill()
    try:
        run = Ledger.start(SampleInput())
        assert Run.objects.get(pk=run.pk).state == RunState.READY, "the start is committed, and did not fail"
    finally:
        live.redis.start()
    live.start_worker(env=QUICK)
    settle(live, run)
    assert effects(run) == each_step_once(run)


@pytest.mark.case("E12")
@pytest.mark.sqlite_too
def test_old_messages_that_redis_delivers_again_do_nothing(live: Live) -> None:
    runs = [Ledger.start(SampleInput()) for _ in range(10)]
    redis = live.redis.client()
    [queue] = redis.keys("workflows*")  # Celery's transport has a list for each priority
    old = redis.lrange(queue, 0, -1)
    assert len(old) == 10
    live.start_worker(env=QUICK)
    settle(live, *runs)
    redis.rpush(queue, *old)
    live.wait_until(
        lambda: not redis.llen(queue) and not redis.hlen("unacked"), what="the old messages are handled"
    )
    for run in runs:
        run.refresh_from_db()
        assert run.epoch == 1, "an old message had an effect"
        assert effects(run) == each_step_once(run)


@pytest.mark.case("E15")
@on_a_server
def test_step_that_outlasts_a_restart_of_the_database_is_recorded_by_its_own_worker(
    live: Live, postgres: servers.PostgresServer
) -> None:
    run, worker = hold(live)
    connections.close_all()
    postgres.process.stop()  # type: ignore[union-attr]
    try:
        let_go(live)
        live.wait_until(lambda: "record_retried" in worker.output(), 20, what="the worker finds no database")
    finally:
        postgres.start()
    settle(live, run)
    assert run.state == RunState.SUCCEEDED
    assert len(calls(live)) == 1
    assert run.epoch == 1, "it was not taken over: the worker had its lease, and recorded what it had done"


@pytest.mark.case("E51")
@pytest.mark.sqlite_too
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_worker_that_is_told_to_stop_finishes_its_step_and_lets_the_run_go_at_once(
    live: Live, pool: str
) -> None:
    worker = live.start_worker(env=HELD, pool=pool, concurrency=2)
    run: Run = Held.start(HeldInput(directory=str(live.directory)))
    live.wait_until(lambda: calls(live), 20, what="the step begins")
    worker.popen.send_signal(signal.SIGTERM)
    live.wait_until(lambda: "Warm shutdown" in worker.output(), 20, what="the worker is told")
    let_go(live)
    live.wait_until(lambda: not worker.alive, 20, what="the worker ends")
    run.refresh_from_db()
    assert (run.state, run.lease_until) == (RunState.READY, None), "no other worker has to wait for its lease"
    assert run.steps.get().state == "SUCCEEDED"
    live.start_worker(env=HELD)
    settle(live, run, timeout=15)
    assert run.state == RunState.SUCCEEDED
    assert len(calls(live)) == 1


@pytest.mark.case("E60")
@pytest.mark.sqlite_too
def test_children_of_a_worker_do_not_share_its_connection(live: Live) -> None:
    """The parent has used the database before it forks: on one socket, the answers would go to the wrong process."""
    worker = live.start_worker(env={**QUICK, **HELD}, pool="prefork", concurrency=3)
    runs = [Ledger.start(SampleInput()) for _ in range(30)]
    settle(live, *runs)
    assert all(effects(run) == each_step_once(run) for run in runs)
    assert {run.epoch for run in runs} == {1}
    assert "OperationalError" not in worker.output()


@pytest.mark.case("E61")
@on_a_server
def test_connections_that_died_while_a_worker_was_idle_cost_nothing(
    live: Live, postgres: servers.PostgresServer
) -> None:
    live.start_worker()
    first = Ledger.start(SampleInput())
    settle(live, first)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] > 0, "no worker was connected"
    second = Ledger.start(SampleInput())
    settle(live, second, timeout=10)  # less than a lease
    assert second.epoch == 1
    assert effects(second) == each_step_once(second)


@pytest.fixture
def pgbouncer(live: Live, postgres: servers.PostgresServer, tmp_path: Path) -> str:
    """A pooler that gives every transaction another connection; returns the database's URL through it."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    assert program, "install Debian's package pgbouncer"
    parts = urlsplit(live.env["DATABASE_URL"])
    port, users, config = servers.free_port(), tmp_path / "users", tmp_path / "pgbouncer.ini"
    users.write_text(f'"{parts.username}" "{parts.password}"\n')
    config.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\nlisten_addr = {servers.HOST}\n"
        f"listen_port = {port}\nauth_type = plain\nauth_file = {users}\npool_mode = transaction\n"
        "default_pool_size = 3\nignore_startup_parameters = options\nunix_socket_dir =\n"
    )
    user = servers.unprivileged_user()
    for path in (tmp_path, users, config):
        path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    pooler = Process("pgbouncer", [program, str(config)], log=tmp_path / "pgbouncer.log", user=user)
    live.processes.append(pooler)
    wait_until(
        lambda: "up" in pooler.output() or "listening" in pooler.output(), 10, what="pgbouncer listens"
    )
    return parts._replace(netloc=f"{parts.username}:{parts.password}@{parts.hostname}:{port}").geturl()


@pytest.mark.case("E59")
@on_a_server
def test_engine_works_behind_a_pooler_that_changes_connections(live: Live, pgbouncer: str) -> None:
    env = {**QUICK, "DATABASE_URL": f"{pgbouncer}?disable_server_side_cursors=true"}
    workers = [live.start_worker(env=env) for _ in range(2)]
    runs = [Ledger.start(SampleInput()) for _ in range(40)]
    settle(live, *runs)
    assert all(effects(run) == each_step_once(run) for run in runs)
    assert not any("DuplicatePreparedStatement" in worker.output() for worker in workers)
    assert list(verify_history()) == []
