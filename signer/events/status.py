"""How far the logs of a chain are read, for people and programs: lag and finality, of the chain and of each contract."""

from dataclasses import dataclass
from datetime import datetime

from signer.models import EventIndex, WatchedContract


@dataclass(frozen=True)
class ContractStatus:
    """How far a contract is read. What lies at `final_number` or below won't be taken back."""

    id: str
    address: str
    handler: str
    label: str
    state: str
    read_number: int | None
    final_number: int | None
    lag_blocks: int | None
    last_error: str


@dataclass(frozen=True)
class IndexStatus:
    """How far a chain is read: its front, which the contracts follow that aren't behind it."""

    chain_id: int
    head_number: int | None
    head_seen_at: datetime | None
    read_number: int | None
    final_number: int | None
    lag_blocks: int | None
    failing_since: datetime | None
    last_error: str
    contracts: list[ContractStatus]


def index_status(chain_id: int) -> IndexStatus | None:
    """Return how far the chain's logs are read; None where nothing of it is."""
    index = EventIndex.objects.filter(pk=chain_id).first()
    if index is None:
        return None
    contracts = (
        WatchedContract.objects.filter(index=index).select_related("index").order_by("created_at", "pk")
    )
    return IndexStatus(
        chain_id=chain_id,
        head_number=index.head_number,
        head_seen_at=index.head_seen_at,
        read_number=index.front_number,
        final_number=index.final_front,
        lag_blocks=index.lag,
        failing_since=index.failing_since,
        last_error=index.last_error,
        contracts=[contract_status(contract) for contract in contracts],
    )


def contract_status(contract: WatchedContract) -> ContractStatus:
    """Return how far a contract is read."""
    return ContractStatus(
        id=str(contract.pk),
        address=contract.address,
        handler=contract.handler,
        label=contract.label,
        state=contract.state,
        read_number=contract.number,
        final_number=contract.final_number,
        lag_blocks=contract.lag,
        last_error=contract.last_error,
    )
