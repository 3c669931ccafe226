import pytest
from django.core import mail
from pytest_django.fixtures import Settings

from dalp.assets.notices import message_id, send_notices


@pytest.fixture(autouse=True)
def _sender(settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "DALP <dalp@issuer.example>"


def test_a_notice_sent_again_is_the_same_message() -> None:
    for _ in range(2):
        assert send_notices("run:notify#0", "issued", {"a@example.com": "A", "b@example.com": "B"}) == 2
    ids = [message.message()["Message-ID"] for message in mail.outbox]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2
    assert ids[0] == message_id("run:notify#0", "a@example.com")
    assert ids[0].endswith("@issuer.example>")


def test_another_operations_notice_is_another_message() -> None:
    assert message_id("run:notify#0", "a@example.com") != message_id("run:stopped#0", "a@example.com")


def test_nobody_sees_who_else_was_told() -> None:
    send_notices("key", "issued", {"a@example.com": "A", "b@example.com": "B"})
    for message in mail.outbox:
        assert len(message.recipients()) == 1
    assert "b@example.com" not in mail.outbox[0].message().as_string()
