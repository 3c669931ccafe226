"""How long each method may take, as a share of `rpc_timeout_seconds`."""

from collections.abc import Sequence

from django.conf import settings

from signer.rpc.door import Call

LIGHT, ORDINARY, HEAVY = 0.5, 1.0, 2.0

# What a node answers from memory or from one look at its database is light; what runs code or walks many blocks is
# heavy. What is not listed is ordinary, eth_sendRawTransaction among it.
SHARES = {
    **dict.fromkeys(
        (
            "eth_blockNumber",
            "eth_chainId",
            "eth_gasPrice",
            "eth_getBalance",
            "eth_getBlockByHash",
            "eth_getBlockByNumber",
            "eth_getCode",
            "eth_getTransactionByHash",
            "eth_getTransactionCount",
            "eth_getTransactionReceipt",
            "eth_maxPriorityFeePerGas",
            "net_version",
        ),
        LIGHT,
    ),
    **dict.fromkeys(("eth_estimateGas", "eth_getBlockReceipts", "eth_getLogs"), HEAVY),
}


def share(calls: Sequence[Call]) -> float:
    """Return the share of the slowest method among the calls."""
    return max((SHARES.get(method, ORDINARY) for method, _ in calls), default=ORDINARY)


def seconds_for(calls: Sequence[Call]) -> float:
    """Return how long one request with these calls may take."""
    return float(settings.SIGNER["rpc_timeout_seconds"]) * share(calls)
