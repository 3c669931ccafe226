"""Handlers of events: registered under a name, with an undo."""

import pytest
from eth_abi.abi import encode

from signer import Contract, UnknownHandlerError, on_event
from signer.events import handlers
from signer.events.holders import TRANSFER
from signer.requests import Log

A, B, C = ("0x" + digit * 40 for digit in "123")


@pytest.fixture(autouse=True)
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_handlers", {})


def log(*topics: str, amount: int = 7) -> Log:
    padded = ["0x" + topic.removeprefix("0x").rjust(64, "0") for topic in topics]
    return Log(address=C, topics=padded, data="0x" + encode(["uint256"], [amount]).hex())


def test_an_event_is_decoded_by_its_topic() -> None:
    handler = on_event("test.moves", abi=[TRANSFER])(lambda events: None)
    [topic] = handler.topics
    assert handler.decode(log(topic, A, B)) == ("Transfer", {"sender": A, "receiver": B, "amount": 7})
    assert Contract([TRANSFER]).event("Transfer", [log(topic, A, B)])[0]["amount"] == 7


def test_what_has_the_topic_and_not_the_shape_is_refused() -> None:
    """ERC-721's Transfer has the same topic, and a fourth one for the token's number."""
    handler = on_event("test.moves", abi=[TRANSFER])(lambda events: None)
    [topic] = handler.topics
    for strange in (log(topic, A, B, C), log(topic, A), log(A), log()):
        with pytest.raises(ValueError, match=r"."):
            handler.decode(strange)


def test_a_name_is_given_once_and_has_events() -> None:
    on_event("test.moves", abi=[TRANSFER])(lambda events: None)
    with pytest.raises(ValueError, match="already"):
        on_event("test.moves", abi=[TRANSFER])(lambda events: None)
    with pytest.raises(ValueError, match="no event"):
        on_event("test.nothing", abi=[])(lambda events: None)


def test_a_handler_without_undo_is_none() -> None:
    handler = on_event("test.moves", abi=[TRANSFER])(lambda events: None)
    with pytest.raises(UnknownHandlerError, match="no undo"):
        handlers.find_handler("test.moves")
    handler.undo(lambda events: None)
    assert handlers.find_handler("test.moves") is handler
