"""The fixtures' own promises: a database for one test, shared with other processes, on either database."""

import threading

import pytest
from django.contrib.auth.models import Group
from django.db import connection

from tests.services import Live, Services

pytestmark = pytest.mark.sqlite_too


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_finds_its_database_empty(fresh_db: str, turn: int) -> None:
    assert Group.objects.count() == 0
    Group.objects.create(name="left behind")


def test_threads_see_what_was_committed(fresh_db: str) -> None:
    Group.objects.create(name="seen")
    seen: list[str] = []

    def look() -> None:
        seen.extend(Group.objects.values_list("name", flat=True))
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == ["seen"]


def test_processes_share_the_database(live: Live, services: Services) -> None:
    assert connection.vendor == services.database
    code = "import django; django.setup(); from django.contrib.auth.models import Group as G; G.objects.create(name='w')"
    process = live.run("-c", code)
    assert process.returncode == 0, process.output()
    assert Group.objects.get().name == "w"


@pytest.mark.django_db
def test_an_ordinary_test_is_back_on_its_own_database() -> None:
    assert "test_dalp" in str(connection.settings_dict["NAME"])
    assert Group.objects.count() == 0
