"""Instants in answers sort as text: callers compare them so, and a whole second is an instant like any other."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from dalp.api.pagination import instant
from dalp.webhooks.events import test_body as body_of_test

WHOLE_SECOND = datetime(2026, 11, 24, 2, 6, tzinfo=UTC)


def test_instants_sort_as_text() -> None:
    instants = [WHOLE_SECOND + timedelta(milliseconds=number) for number in (-1, 0, 14)]
    texts = [instant(at) for at in instants]
    assert texts == sorted(texts, key=str)
    assert texts[1] == "2026-11-24T02:06:00.000000Z"


def test_a_webhook_s_test_says_when_in_the_same_form() -> None:
    assert json.loads(body_of_test(uuid4(), WHOLE_SECOND))["timestamp"] == instant(WHOLE_SECOND)
