"""The processes as an operator starts them: what stops a start, what serves every queue, what the database is told."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from dalp.local.processes import wait_until
from tests.services import Live

ROOT = Path(__file__).resolve().parents[3]
PRODUCTION = {"DEBUG": "0", "SECRET_KEY": "", "KEYGUARD_KEK": "", "DALP_TEST_DISABLE_FENCE": "0"}
OWN_SECRETS = {"SECRET_KEY": "k" * 60, "KEYGUARD_KEK": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}


def run(command: list[str], env: Mapping[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if name not in OWN_SECRETS}
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**base, **database, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command",
    [
        ["manage.py", "migrate"],
        ["-m", "celery", "-A", "dalp", "worker", "-P", "solo"],
        ["-m", "celery", "-A", "dalp", "beat"],
        ["-c", "import dalp.wsgi"],
    ],
    ids=["migrate", "worker", "beat", "web"],
)
def test_production_without_secrets_does_not_start(command: list[str], tmp_path: Path) -> None:
    done = run(command, PRODUCTION, tmp_path)
    assert done.returncode != 0
    assert "SECRET_KEY is missing or the development one" in done.stderr
    assert "KEYGUARD_KEK is missing or the development one" in done.stderr


def test_secrets_may_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(OWN_SECRETS["SECRET_KEY"] + "\n")
    (tmp_path / "kek").write_text(OWN_SECRETS["KEYGUARD_KEK"] + "\n")
    env = {
        "DEBUG": "0",
        "SECRET_KEY_FILE": str(tmp_path / "secret"),
        "KEYGUARD_KEK_FILE": str(tmp_path / "kek"),
    }
    code = "import django; django.setup(); from django.conf import settings as s; print(len(s.SECRET_KEY), s.KEYGUARD_KEK)"
    done = run(["-c", code], env, tmp_path)
    assert done.stdout.split() == ["60", OWN_SECRETS["KEYGUARD_KEK"]], done.stderr
    assert run(["manage.py", "check"], env, tmp_path).returncode == 0


def test_teams_install_their_own_apps_by_name(tmp_path: Path) -> None:
    code = "import django; django.setup(); from django.apps import apps; print('sites' in apps.app_configs)"
    done = run(["-c", code], {"DALP_APPS": "django.contrib.sites"}, tmp_path)
    assert done.stdout.strip() == "True", done.stderr


def test_knobs_come_from_the_environment(tmp_path: Path) -> None:
    code = "import dalp.settings as s; print(s.WORKFLOWS['lease_seconds'], s.SIGNER['watch_slice_seconds'])"
    env = {"DALP_WORKFLOWS_LEASE_SECONDS": "5", "DALP_SIGNER_WATCH_SLICE_SECONDS": "0.5"}
    assert run(["-c", code], env, tmp_path).stdout.split() == ["5", "0.5"]


@pytest.mark.postgresql("about PostgreSQL")
def test_the_database_is_told_to_end_what_a_frozen_worker_holds(db: None) -> None:
    names = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
    with connection.cursor() as cursor:
        found = []
        for name in names:
            cursor.execute(f"SHOW {name}")
            found.append(cursor.fetchone()[0])
    assert found == ["20s", "5s", "30s"]
    assert settings.DATABASES["default"]["CONN_HEALTH_CHECKS"] is True


def test_a_worker_started_without_options_serves_every_queue_and_stops_on_sigterm(live: Live) -> None:
    from dalp.celery import app

    worker = live.start_worker()
    with app.connection_for_write() as broker:
        served = wait_until(
            lambda: app.control.inspect(timeout=1, connection=broker).active_queues(),
            20,
            what="the worker answers",
        )
    [queues] = served.values()
    names = {queue["name"] for queue in queues}
    assert {"workflows", "signer", "ops", "assets"} <= names
    worker.popen.terminate()
    wait_until(lambda: not worker.alive, 20, what="the worker has ended")
    assert worker.returncode == 0


def test_results_of_operational_tasks_are_kept_and_those_of_sweeps_are_not(live: Live) -> None:
    from django_celery_results.models import TaskResult

    from dalp.celery import app

    live.start_worker()
    with app.connection_for_write() as broker:
        app.send_task("workflows.sweep", queue="workflows", connection=broker)
        app.send_task("dalp.diagnose", queue="ops", connection=broker)
    live.wait_until(lambda: TaskResult.objects.filter(status="SUCCESS").exists(), 30, what="a result is kept")
    [kept] = TaskResult.objects.all()
    assert kept.task_name == "dalp.diagnose"
    assert "Redis answers" in kept.result
