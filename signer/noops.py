"""What a transaction that does nothing takes: the gas for a transfer of nothing to oneself, and the fee of a chain below.

Almost everywhere that is what any plain transfer takes. Where gas pays for what is written to a chain below, too
(Arbitrum), it is more, and a no-op with less would be refused for ever.
"""

from signer import l1_fees
from signer.admission import GAS_MARGIN_PERCENT, PLAIN_TRANSFER_GAS
from signer.errors import RpcError
from signer.rpc import Rpc, quantity


def gas(rpc: Rpc, address: str) -> int:
    """Return the gas limit of a no-op of this address, with a margin; that of a plain transfer when the node does not say."""
    [answer] = rpc.batch([("eth_estimateGas", [{"from": address, "to": address}, "latest"])])
    try:
        needed = quantity(answer)
    except RpcError:
        return PLAIN_TRANSFER_GAS
    return PLAIN_TRANSFER_GAS if needed <= PLAIN_TRANSFER_GAS else needed * GAS_MARGIN_PERCENT // 100


def l1_fee_wei(rpc: Rpc, oracle: str) -> int | None:
    """Return what to reserve for the chain below, 0 where there is no oracle, None when it does not say."""
    if not oracle:
        return 0
    [answer] = rpc.batch([l1_fees.question_about(oracle, b"")])
    return l1_fees.with_margin(answer)
