"""The receiver in docs/webhooks.md is one."""

import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dalp.local.processes import wait_until
from dalp.local.servers import free_port
from dalp.webhooks import courier, registering, replaying
from dalp.webhooks.models import Delivery
from tests.integration.webhooks.rows import Rows

PAGE = Path(__file__).parents[3] / "docs" / "webhooks.md"


@pytest.fixture
def shop(rows: Rows, tmp_path: Path) -> Iterator[Path]:
    """The documented receiver, registered; the file in which it keeps what it got."""
    port = free_port()
    webhook, secret = registering.register(f"http://127.0.0.1:{port}/hooks/dalp", actor="test")
    code = re.search(r"## A receiver\n\n(.*?)\n\nAnother", PAGE.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "receiver.py").write_text(textwrap.dedent(code[1]))
    env = {**os.environ, "SECRET": secret, "PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "receiver.py"], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL
    ) as process:
        replaying.send_test(webhook, actor="test", reason="-")

        def is_there() -> Any:
            registering.enable(webhook, actor="test", reason="-")
            Delivery.objects.update(next_at=webhook.created_at)
            courier.deliver()
            return Delivery.objects.filter(state="DELIVERED").exists()

        wait_until(is_there, 20, what="the receiver takes a test event")
        yield tmp_path / "events.sqlite3"
        process.terminate()


def test_it_verifies_stores_once_and_takes_nothing_else(rows: Rows, shop: Path) -> None:
    [row] = rows.submit()
    rows.fail(row)
    assert courier.deliver() == 1
    delivery = Delivery.objects.get(transaction=row)
    replaying.replay(delivery, actor="test", reason="-")
    assert courier.deliver() == 1
    Delivery.objects.filter(pk=delivery.pk).update(state="DELIVERED")
    with sqlite3.connect(shop) as store:
        kept = store.execute("SELECT id, body FROM event ORDER BY rowid").fetchall()
    store.close()
    assert [each[0] for each in kept][1:] == [str(delivery.message_id)]
    assert kept[1][1] == delivery.body
    from dalp.webhooks.models import Webhook

    registering.rotate(Webhook.objects.get(), actor="test", reason="-")
    Webhook.objects.update(previous_until=None)
    replaying.replay(delivery, actor="test", reason="-")
    courier.deliver()
    assert Delivery.objects.get(pk=delivery.pk).last_status == 401
