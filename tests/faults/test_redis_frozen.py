"""Redis stands still: requests are taken all the same, in time, and what they started is carried out afterwards."""

import time
from collections.abc import Iterator

import pytest
from django.db import connection

from dalp.local.servers import RedisServer
from tests.services import Live
from workflows.models import Run

PATIENCE_SECONDS = 3


@pytest.fixture
def frozen(redis_server: RedisServer) -> Iterator[RedisServer]:
    yield redis_server
    redis_server.thaw()


@pytest.mark.case("PB7")
def test_a_request_is_answered_while_redis_stands_still(live: Live, frozen: RedisServer) -> None:
    from tests.api.callers import Caller

    operator = Caller("operator")
    assert operator.start("warm").status_code == 202
    frozen.freeze()
    took = []
    for name in ("one", "two", "three"):
        begun = time.monotonic()
        response = operator.start(name)
        took.append(time.monotonic() - begun)
        assert response.status_code == 202, response.content
    frozen.thaw()
    assert max(took) < PATIENCE_SECONDS, took
    assert Run.objects.count() == 4
    connection.close()


@pytest.mark.case("PB7")
def test_readyz_answers_while_redis_stands_still(live: Live, frozen: RedisServer) -> None:
    from django.test import Client

    frozen.freeze()
    begun = time.monotonic()
    response = Client().get("/readyz")
    assert response.status_code == 503
    assert time.monotonic() - begun < PATIENCE_SECONDS
