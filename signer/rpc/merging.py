"""One answer out of those that several endpoints gave to the same transaction. Pure.

Any success wins, for the network needs one node. What ends a transaction (a refusal for good) needs all of them: a
node may be configured to refuse what another takes. Between other answers that wins which is most cautious about the
bytes: possibly sent before refused.
"""

from collections.abc import Sequence
from typing import Any

from eth_utils.crypto import keccak

from signer.errors import RpcError
from signer.rpc_errors import ErrorClass, Rule, classify

E = ErrorClass

# From the first on: what says most about where the transaction is, and what has to be done for it.
ORDER = (
    E.KNOWN,  # as good as accepted
    E.AMBIGUOUS,  # somebody may have it
    E.NONCE_LOW,  # one of its hashes may be mined: receipts decide
    E.UNDERPRICED_REPLACEMENT,  # a pool holds an earlier attempt
    E.UNDERPRICED,
    E.FUNDS,
    E.LIMIT,
    E.NONCE_HIGH,  # one node's view: it may only lack what lies below
    E.FEE_CAP,  # one node's configuration
    E.RATE,  # unread, so somebody has not been heard who might take it
    E.PERMANENT,  # last: only when nobody said anything else
)
RANK = {error_class: rank for rank, error_class in enumerate(ORDER)}


def merge(raw: str, answers: Sequence[Any], rules: Sequence[Rule] = ()) -> Any:
    """Return the answer that counts for a raw transaction (0x text), out of at least one.

    answers: a result or RpcError per endpoint that it was sent to. An endpoint that did not answer is an
    RpcTransportError among them. rules: those of operators.
    """
    taken = [answer for answer in answers if not isinstance(answer, RpcError)]
    if taken:
        if len(taken) == 1:
            return taken[0]
        # A node that reports another hash is wrong about it, though it has the bytes.
        computed = "0x" + keccak(hexstr=raw).hex()
        return next((a for a in taken if isinstance(a, str) and a.lower() == computed), taken[0])
    return min(answers, key=lambda answer: RANK[classify(answer, rules)])
