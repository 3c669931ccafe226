"""Reading a chain: calls that change nothing and need no key."""

from collections.abc import Sequence
from typing import Any

from signer import chains
from signer.abi import Contract, decode_revert
from signer.blocks import WINDOW
from signer.errors import CallRevertedError, RpcError
from signer.rpc import Call, quantity

BlockTag = str | int


def _tag(block: BlockTag) -> str:
    return hex(block) if isinstance(block, int) else block


def _call(to: str, data: str, block: BlockTag) -> Call:
    return ("eth_call", [{"to": to, "data": data}, _tag(block)])


def _bytes(answer: Any) -> bytes:
    if isinstance(answer, RpcError):
        raise answer
    if not isinstance(answer, str):
        raise RpcError("the node answered a call with something that is not hex text")
    return bytes.fromhex(answer.removeprefix("0x"))


class Reader:
    """Reads the state of one chain. An error is raised, never returned as an empty answer."""

    def __init__(self, chain_id: int) -> None:
        self._rpc = chains.connect(chain_id)

    def call(self, to: str, data: str, block: BlockTag = "latest") -> bytes:
        """Return what a call answers. Raises CallRevertedError with the reason, or RpcError."""
        return self.call_many([(to, data)], block)[0]

    def call_many(self, calls: Sequence[tuple[str, str]], block: BlockTag = "latest") -> list[bytes]:
        """Return what each call answers, asked in one batch. Raises the first one's error."""
        return [_bytes(answer) for answer in self._rpc.batch([_call(to, data, block) for to, data in calls])]

    def undisputed_block(self) -> int:
        """Return the number of a recent block that lies below every fork that is followed."""
        return max(0, quantity(self._rpc.call("eth_blockNumber")) - WINDOW)

    def code(self, address: str, block: BlockTag = "latest") -> bytes:
        """Return the code at an address; empty where there is no contract."""
        return _bytes(self._rpc.call("eth_getCode", address, _tag(block)))

    def read(self, contract: Contract, function: str, *args: Any, block: BlockTag = "latest") -> Any:
        """Return what the contract's function answers, decoded."""
        return self.read_many([(contract, function, args)], block)[0]

    def read_many(
        self, reads: Sequence[tuple[Contract, str, Sequence[Any]]], block: BlockTag = "latest"
    ) -> list[Any]:
        """Return what each function answers, decoded, asked in one batch.

        Raises CallRevertedError (custom errors decoded with that contract's ABI) or RpcError of the first that failed.
        """
        calls = [
            _call(_address(contract), contract.encode(function, *args), block)
            for contract, function, args in reads
        ]
        values = []
        for (contract, function, args), answer in zip(reads, self._rpc.batch(calls), strict=True):
            if isinstance(answer, CallRevertedError) and isinstance(answer.data, str):
                raise CallRevertedError(decode_revert(answer.data, contract.abi), data=answer.data)
            values.append(contract.decode(function, _bytes(answer), len(args)))
        return values


def _address(contract: Contract) -> str:
    if contract.address is None:
        raise ValueError("this contract has no address yet")
    return contract.address


def chain_reader(chain_id: int) -> Reader:
    """Return a reader of the registered chain. Raises UnknownChainError."""
    return Reader(chain_id)
