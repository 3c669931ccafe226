"""One answer out of those that several endpoints gave to the same question, where money hangs on it. Pure.

An error is no vote. Where answers may differ by a block without anybody being wrong, the more cautious one counts; where
they may not, different answers are no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from signer.errors import RpcDisagreementError, RpcError
from signer.rpc.answers import quantity
from signer.rpc.door import Call

# Up to so many are all asked.
SMALL = 3


def asked(usable: int) -> int:
    """Return how many of the usable endpoints are asked."""
    return usable if usable <= SMALL else majority(usable)


def majority(usable: int) -> int:
    """Return how many answers are needed."""
    return usable // 2 + 1


def agree(call: Call, answers: Sequence[Any], needed: int) -> Any:
    """Return the answer on which the endpoints agree, or an RpcError. answers: a result or RpcError for each."""
    votes = [answer for answer in answers if not isinstance(answer, RpcError)]
    if len(votes) < needed:
        return next(answer for answer in answers if isinstance(answer, RpcError))
    if len(votes) == 1:
        return votes[0]
    method, params = call
    try:
        return REDUCERS.get(method, same)(call, votes)
    except RpcError as error:
        return error
    except (KeyError, TypeError, AttributeError):
        return RpcDisagreementError(f"{method} {_shown(params)}: an answer of an unknown shape")


def lowest(call: Call, votes: Sequence[Any]) -> Any:
    """A lagging node counts less, a leading one nothing more: what is below the lowest is common to all."""
    return min(votes, key=quantity)


def lowest_block(call: Call, votes: Sequence[Any]) -> Any:
    """A tag ("latest", "finalized") means another block to each; a number or hash means the same to all."""
    tag = call[1][0]
    if isinstance(tag, str) and not tag.startswith("0x"):
        return min(votes, key=lambda block: quantity(block["number"]))
    return _same_by(call, votes, lambda block: block and block["hash"].lower())


def same_receipt(call: Call, votes: Sequence[Any]) -> Any:
    return _same_by(call, votes, lambda it: it and _deciding(it))


def same_block_receipts(call: Call, votes: Sequence[Any]) -> Any:
    return _same_by(call, votes, lambda given: given and [_deciding(it) for it in given])


def _deciding(receipt: Any) -> tuple[str, ...]:
    """Return what an outcome follows from; the rest is told in other words by other nodes."""
    contract = receipt.get("contractAddress") or ""
    named = (receipt["blockHash"], receipt["transactionHash"], contract)
    return *(each.lower() for each in named), receipt["blockNumber"], receipt["status"]


def same_logs(call: Call, votes: Sequence[Any]) -> Any:
    return _same_by(call, votes, lambda logs: sorted(map(_place_and_content, logs)))


def _place_and_content(log: Any) -> tuple[Any, ...]:
    """Return all that is concluded from a log, in the order of the chain."""
    named = (log["blockHash"], log["transactionHash"], log["address"], *log["topics"], log["data"])
    return (
        *map(quantity, (log["blockNumber"], log["logIndex"])),
        bool(log.get("removed")),
        *map(str.lower, named),
    )


def same(call: Call, votes: Sequence[Any]) -> Any:
    return _same_by(call, votes, lambda answer: answer)


REDUCERS: Mapping[str, Callable[[Call, Sequence[Any]], Any]] = {
    "eth_blockNumber": lowest,
    "eth_getTransactionCount": lowest,
    "eth_getBlockByNumber": lowest_block,
    "eth_getBlockByHash": lowest_block,
    "eth_getTransactionReceipt": same_receipt,
    "eth_getBlockReceipts": same_block_receipts,
    "eth_getLogs": same_logs,
}


def _same_by(call: Call, votes: Sequence[Any], key: Callable[[Any], Any]) -> Any:
    first = key(votes[0])
    if all(key(vote) == first for vote in votes[1:]):
        return votes[0]
    method, params = call
    raise RpcDisagreementError(f"the nodes do not agree on {method} {_shown(params)}")


def _shown(params: Sequence[Any]) -> str:
    return str(params[0])[:80] if params else ""
