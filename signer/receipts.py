"""What the receipts of a transaction's attempts prove. Pure.

An error is not an answer: with one of them missing nothing may be concluded from the absence of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, StringConstraints, ValidationError

from signer.models import Attempt
from signer.requests import Address, Log

HASH = r"^0x[0-9a-fA-F]{64}$"
Quantity = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{1,16}$")]


class Finding(Enum):
    FINAL = "final"  # in a canonical block, deep enough
    MINED = "mined"  # in a canonical block, not deep enough yet
    ABSENT = "absent"  # the node knows none of the attempts as mined, and said so for each of them
    ORPHANED = "orphaned"  # absent, and the block that held it is not on the chain
    UNKNOWN = "unknown"  # look again later


@dataclass(frozen=True)
class Verdict:
    """What is known of a transaction; with the attempt that was mined, where one was."""

    finding: Finding
    attempt: Attempt | None = None
    receipt: dict[str, Any] | None = None

    @property
    def block_number(self) -> int:
        assert self.receipt is not None
        return int(self.receipt["blockNumber"], 16)

    @property
    def block_hash(self) -> str:
        assert self.receipt is not None
        return str(self.receipt["blockHash"]).lower()

    @property
    def succeeded(self) -> bool:
        return self.receipt is not None and int(self.receipt["status"], 16) == 1


class _WholeReceipt(BaseModel):
    """What must be there, and of which kind, before a node's answer is taken for a receipt."""

    transactionHash: str  # noqa: N815
    blockHash: Annotated[str, StringConstraints(pattern=HASH)]  # noqa: N815
    blockNumber: Quantity  # noqa: N815
    gasUsed: Quantity  # noqa: N815
    status: Literal["0x0", "0x1"]
    contractAddress: Address | None = None  # noqa: N815
    logs: list[Log]


def is_receipt(answer: Any, attempt: Attempt) -> bool:
    """Return whether the node's answer is a whole receipt of this very attempt."""
    if not isinstance(answer, dict):
        return False
    try:
        return _WholeReceipt.model_validate(answer).transactionHash.lower() == attempt.hash
    except ValidationError:
        return False


def lowest_block(attempts: Sequence[Attempt], answers: Sequence[Any]) -> int | None:
    """Return the lowest block that a receipt among the answers names."""
    numbers = [
        int(answer["blockNumber"], 16)
        for attempt, answer in zip(attempts, answers, strict=True)
        if is_receipt(answer, attempt)
    ]
    return min(numbers, default=None)


def judge(
    attempts: Sequence[Attempt],
    answers: Sequence[Any],
    canonical: Mapping[int, str],
    head: int,
    final: int,
) -> Verdict:
    """Return what the answers to eth_getTransactionReceipt, one per attempt, prove.

    canonical: block hash by number, linked up to `head`. final: the highest block that counts as final.
    Any attempt may be the one that was mined.
    """
    for attempt, answer in zip(attempts, answers, strict=True):
        if is_receipt(answer, attempt):
            verdict = Verdict(Finding.MINED, attempt, answer)
            if canonical.get(verdict.block_number) != verdict.block_hash or verdict.block_number > head:
                continue
            return Verdict(Finding.FINAL if verdict.block_number <= final else Finding.MINED, attempt, answer)
    return Verdict(Finding.ABSENT if all(answer is None for answer in answers) else Finding.UNKNOWN)
