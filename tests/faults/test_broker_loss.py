"""Redis dies under a worker: the worker stays, and works again when Redis is back.

Without the guard in dalp/celery.py a busy worker of Celery 5.7.0 exits here.
"""

import time
from pathlib import Path

import pytest

from tests.services import Live

DOZING = {"DALP_APPS": "tests.sample,tests.faults.dozing"}


def doze(file: Path, seconds: float) -> None:
    from dalp.celery import app

    with app.connection_for_write() as connection:
        app.send_task("tests.doze", args=[str(file), seconds], queue="ops", connection=connection)


def has(file: Path, word: str) -> bool:
    return file.exists() and word in file.read_text()


@pytest.mark.case("PB5")
@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_worker_survives_the_loss_of_the_broker(live: Live, tmp_path: Path, pool: str, busy: bool) -> None:
    worker = live.start_worker(env=DOZING, pool=pool, concurrency=2)
    first, second = tmp_path / "first", tmp_path / "second"
    if busy:
        doze(first, 3)
        live.wait_until(lambda: has(first, "begun"), 20, what="the task begins")
    live.redis.kill()
    # Long enough for the worker to notice, and for the task to end while there is no broker to acknowledge to.
    time.sleep(4 if busy else 1)
    live.redis.start()
    doze(second, 0)
    live.wait_until(
        lambda: has(second, "ended") or not worker.alive, 40, what="the worker takes messages again"
    )
    assert worker.alive, worker.tail(40)
    assert has(second, "ended")
    assert not busy or has(first, "ended")
    assert "Connection" in worker.output()
