"""What the chain itself says of a token: asked over bare JSON-RPC, with nothing of our own tables or code between."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from dalp.local.servers import Rpc

_TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
_NOBODY = "0x" + "0" * 64


@dataclass(frozen=True)
class Holding:
    """A wallet's balance, and how many mints made it."""

    wallet: str
    balance: int
    mints: int


@dataclass(frozen=True)
class ChainReport:
    """A token and the senders' nonces as the chain has them."""

    token: str
    name: str
    symbol: str
    decimals: int
    supply: int
    paused: bool
    holdings: list[Holding]
    # By sender: how many transactions the chain holds for each nonce.
    nonces: dict[str, Counter[int]] = field(default_factory=dict)

    def faults(self, *, name: str, symbol: str, decimals: int, amounts: dict[str, int]) -> list[str]:
        """Return where the chain differs from what was asked for; amounts: by wallet, in base units."""
        pairs: list[tuple[str, Any, Any]] = [
            ("name", name, self.name),
            ("symbol", symbol, self.symbol),
            ("decimals", decimals, self.decimals),
            ("supply", sum(amounts.values()), self.supply),
            ("paused", False, self.paused),
            ("holdings", amounts, {holding.wallet: holding.balance for holding in self.holdings}),
            ("mints per holder", dict.fromkeys(amounts, 1), {h.wallet: h.mints for h in self.holdings}),
        ]
        for sender, counted in self.nonces.items():
            once_each = Counter(range(max(counted, default=-1) + 1))
            pairs.append((f"transactions per nonce of {sender}", once_each, counted))
        return [
            f"{what}: asked for {asked}, the chain has {found}"
            for what, asked, found in pairs
            if asked != found
        ]


def read_chain(rpc: Rpc, token: str, wallets: Iterable[str], senders: Iterable[str]) -> ChainReport:
    """Ask the chain about a token, its holders and the transactions of each sender."""

    def call(signature: str, returns: str, *arguments: str) -> Any:
        types = signature[signature.index("(") + 1 : -1]
        data = keccak(text=signature)[:4] + encode(types.split(",") if types else [], arguments)
        answer = rpc("eth_call", {"to": token, "data": "0x" + data.hex()}, "latest")
        return decode([returns], bytes.fromhex(answer[2:]))[0]

    mints = count_mints(rpc, token)
    return ChainReport(
        token=token,
        name=call("name()", "string"),
        symbol=call("symbol()", "string"),
        decimals=call("decimals()", "uint8"),
        supply=call("totalSupply()", "uint256"),
        paused=call("paused()", "bool"),
        holdings=[
            Holding(wallet, call("balanceOf(address)", "uint256", wallet), mints[wallet])
            for wallet in wallets
        ],
        nonces=count_nonces(rpc, senders),
    )


def count_mints(rpc: Rpc, token: str) -> Counter[str]:
    """Return how often the token was minted to each wallet."""
    wanted = {"address": token, "topics": [_TRANSFER, _NOBODY], "fromBlock": "0x0", "toBlock": "latest"}
    return Counter(to_checksum_address("0x" + log["topics"][2][-40:]) for log in rpc("eth_getLogs", wanted))


def count_nonces(rpc: Rpc, senders: Iterable[str]) -> dict[str, Counter[int]]:
    """Return, by sender, the number of transactions per nonce in all blocks."""
    counted: dict[str, Counter[int]] = {to_checksum_address(sender): Counter() for sender in senders}
    for block_number in range(int(rpc("eth_blockNumber"), 16) + 1):
        for transaction in rpc("eth_getBlockByNumber", hex(block_number), True)["transactions"]:
            sender = to_checksum_address(transaction["from"])
            if sender in counted:
                counted[sender][int(transaction["nonce"], 16)] += 1
    return counted
