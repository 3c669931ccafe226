"""What is done with the events of a contract, and how it is undone: functions, registered under a stable name.

    @on_event("acme.prices", abi=PRICE_FEED)
    def record(events: Sequence[Event]) -> None: ...

    @record.undo
    def forget(events: Sequence[Event]) -> None: ...

They run inside the transaction that records the logs, so they write to this database and call nothing outside. That
makes them exactly once; whoever reads the chain or waits in one holds up its whole index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from signer.abi import Abi, LogEntry, event_arguments, event_topic
from signer.errors import UnknownHandlerError


@dataclass(frozen=True)
class Event:
    """One event of a contract, decoded, and its place on the chain."""

    chain_id: int
    address: str
    name: str
    arguments: Mapping[str, Any]
    block_number: int
    block_hash: str
    log_index: int
    transaction_hash: str


# Takes events in the order of the chain; an undo takes them newest first.
Work = Callable[[Sequence[Event]], None]
# Takes chain id and address.
Reset = Callable[[int, str], None]


class Handler:
    """What is done with certain events of a contract."""

    def __init__(self, name: str, abi: Abi, apply: Work) -> None:
        self.name = name
        self.apply = apply
        self.take_back: Work | None = None
        self.forget: Reset | None = None
        self._entries = {event_topic(entry): entry for entry in abi if entry["type"] == "event"}
        if not self._entries:
            raise ValueError(f"the ABI of the handler {name!r} has no event")

    @property
    def topics(self) -> frozenset[str]:
        """The first topics of the logs it wants."""
        return frozenset(self._entries)

    def undo(self, work: Work) -> Work:
        """Declare how the events are taken back when the chain takes back their blocks."""
        self.take_back = work
        return work

    def reset(self, forget: Reset) -> Reset:
        """Declare how all of a contract is forgotten at once; without it, it is undone event by event.

        Quicker, and of use where what was written has been altered since, and can't be undone.
        """
        self.forget = forget
        return forget

    def decode(self, log: LogEntry) -> tuple[str, dict[str, Any]]:
        """Return name and arguments of the event. Raises ValueError where the log is none of this handler's."""
        entry = self._entries.get(log.topics[0].lower()) if log.topics else None
        if entry is None:
            raise ValueError(f"{self.name} has no event with the topic {log.topics[:1]}")
        return entry["name"], event_arguments(entry, log)


_handlers: dict[str, Handler] = {}


def on_event(name: str, *, abi: Abi) -> Callable[[Work], Handler]:
    """Register a function as the handler `name` for the events of `abi`; its undo is declared with `.undo`.

    name: stable, since contracts are registered under it; an app's own, `acme.prices`.
    """

    def register(work: Work) -> Handler:
        if name in _handlers:
            raise ValueError(f"there is a handler {name!r} already")
        _handlers[name] = Handler(name, abi, work)
        return _handlers[name]

    return register


def find_handler(name: str) -> Handler:
    """Return the handler of this name, which can be undone. Raises UnknownHandlerError."""
    handler = _handlers.get(name)
    if handler is None:
        raise UnknownHandlerError(f"no code here has the event handler {name!r}")
    if handler.take_back is None:
        raise UnknownHandlerError(f"the event handler {name!r} has no undo")
    return handler
