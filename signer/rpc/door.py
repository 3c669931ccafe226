"""What a node, or the nodes of a chain, can be asked."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from signer.errors import RpcError
from signer.rpc_errors import Rule

Call: TypeAlias = tuple[str, Sequence[Any]]

# 100 is the sweet spot of anvil and within the limit of most hosted providers.
BATCH_SIZE = 100
# Nodes refuse a request of a few megabytes, some in words that say nothing of its size. One call alone may be larger.
REQUEST_BYTES = 1_000_000
SEND = "eth_sendRawTransaction"
LATEST: Call = ("eth_getBlockByNumber", ["latest", False])


def send_calls(raws: Sequence[bytes | str]) -> list[Call]:
    """Return the calls that put raw transactions (bytes, or 0x text) before a node."""
    return [(SEND, [raw if isinstance(raw, str) else "0x" + bytes(raw).hex()]) for raw in raws]


def portion(calls: Sequence[Call], size: int) -> Sequence[Call]:
    """Return the first of the calls, at most `size`, that are to be asked in one request."""
    weight = 0
    for count, (_, params) in enumerate(calls[:size]):
        weight += sum(_weight(each) for each in params)
        if count and weight > REQUEST_BYTES:
            return calls[:count]
    return calls[:size]


def _weight(parameter: Any) -> int:
    """Return about how many bytes a parameter takes: raw transactions and call data are what may be large."""
    text = parameter.get("data", "") if isinstance(parameter, dict) else parameter
    return len(text) if isinstance(text, str) else 0


class Rpc(ABC):
    """A way to ask a chain. Holds URLs; shows only hosts."""

    host: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host})"

    @abstractmethod
    def batch(self, calls: Sequence[Call], *, prove: bool = False) -> list[Any]:
        """Return a result or an RpcError for each call, in order. Never raises RpcError.

        prove: whoever answers must say in the same request that it serves the registered chain, however recently it
        did so. For what is signed afterwards.
        """

    def call(self, method: str, *params: Any) -> Any:
        """Return the result of one call. Raises RpcError."""
        [answer] = self.batch_or_raise([(method, params)])
        return answer

    def batch_or_raise(self, calls: Sequence[Call], *, prove: bool = False) -> list[Any]:
        """As `batch`; raises the first RpcError."""
        return _or_raise(self.batch(calls, prove=prove))

    def broadcast(self, raws: Sequence[bytes | str], rules: Sequence[Rule] = ()) -> list[Any]:
        """Send each raw transaction once to every endpoint that can be used; return one answer or RpcError for each.

        rules: what operators say that the nodes' words mean.
        """
        return self.batch(send_calls(raws))

    def begin_broadcast(
        self, raws: Sequence[bytes | str], rules: Sequence[Rule] = ()
    ) -> Callable[[], list[Any]]:
        """Begin to broadcast; return what waits for the answers. To be called in the thread that began."""
        answers = self.broadcast(raws, rules)
        return lambda: answers

    def agreed(self, calls: Sequence[Call]) -> list[Any]:
        """As `batch`, but with answers on which several endpoints agree, where there are several."""
        return self.batch(calls)

    def begin_opinions(self, calls: Sequence[Call]) -> Callable[[], list[list[Any]]]:
        """Begin to ask the other endpoints that may be asked, two at most, where there are any.

        Returns what gives the answers (or RpcErrors) of each that has come, or comes within a moment: to be called, in the
        thread that began, when `batch` has answered the same.
        """
        return list

    def agreed_or_raise(self, calls: Sequence[Call]) -> list[Any]:
        """As `agreed`; raises the first RpcError."""
        return _or_raise(self.agreed(calls))

    def latest_header(self) -> Any:
        """Return the newest block's header, as the node sent it. Raises RpcError."""
        return self.batch_or_raise([LATEST])[0]


def _or_raise(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, RpcError):
            raise answer
    return answers
