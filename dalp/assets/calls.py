"""Reading from contracts and building transactions to them, with the artifacts' ABIs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dalp.assets.artifacts import artifact
from signer import (
    CallRevertedError,
    Contract,
    RpcError,
    TransactionRequest,
    UnknownChainError,
    chain_reader,
    encode_constructor,
)
from workflows import PermanentError, Retry, TransientError

# For steps that ask a node or a server: about ten minutes of an outage, then a person.
PATIENT = Retry(attempts=15, first=1, factor=2, cap=60)


def contract(name: str, address: str | None = None) -> Contract:
    """Return a contract of this name's ABI at an address."""
    return Contract(artifact(name).abi, address)


@dataclass(frozen=True)
class Sender:
    """Whose transactions, on which chain: a key's alias."""

    chain_id: int
    key: str

    def deploy(self, name: str, *arguments: Any) -> TransactionRequest:
        """Return the transaction that creates the contract of this name."""
        code = artifact(name)
        return TransactionRequest(
            chain_id=self.chain_id,
            sender=self.key,
            to=None,
            data=encode_constructor(code.abi, code.bytecode, *arguments),
            error_abi=tuple(Contract(code.abi).errors),
            label=f"deploy {name}",
        )

    def call(
        self, target: Contract, function: str, *arguments: Any, label: str = "", gas_limit: int | None = None
    ) -> TransactionRequest:
        """Return the transaction that calls a function.

        gas_limit: needed where the call only succeeds after another one of the same list: an estimate is made on a
        state in which that one has not happened, and would fail.
        """
        return TransactionRequest(
            chain_id=self.chain_id,
            sender=self.key,
            to=target.address,
            data=target.encode(function, *arguments),
            gas_limit=gas_limit,
            error_abi=tuple(target.errors),
            label=label or function,
        )


@dataclass(frozen=True)
class View:
    """What the contracts on a chain say. Its errors are the steps' own: try again, or never."""

    chain_id: int

    def read(self, target: Contract, function: str, *arguments: Any) -> Any:
        """Return what one function of a contract answers."""
        with _as_step_errors(self.chain_id):
            return chain_reader(self.chain_id).read(target, function, *arguments)

    def read_many(self, calls: Sequence[tuple[Contract, str, tuple[Any, ...]]]) -> list[Any]:
        """Return what several answer, in one request to the node."""
        with _as_step_errors(self.chain_id):
            return chain_reader(self.chain_id).read_many(calls)

    def undisputed_block(self) -> int:
        """Return the number of a recent block that no fork replaces: what is sent from now on can't be in an earlier one."""
        with _as_step_errors(self.chain_id):
            return chain_reader(self.chain_id).undisputed_block()


@contextmanager
def _as_step_errors(chain_id: int) -> Iterator[None]:
    try:
        yield
    except CallRevertedError as error:
        raise PermanentError("CHAIN_CALL_REVERTED", str(error)) from error
    except UnknownChainError as error:
        raise PermanentError(error.code, str(error)) from error
    except RpcError as error:
        # No answer is not an answer: nothing may be concluded from it, so the step looks again later.
        raise TransientError("CHAIN_UNREACHABLE", f"chain {chain_id} gives no answer: {error}") from error
