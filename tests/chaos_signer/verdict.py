"""What came of it, counted on the chains by a contract and not in our own tables."""

from collections import Counter, defaultdict

from keyguard import verify_trail
from keyguard.models import SigningRecord
from signer import Holding, Transaction, TransactionState, compare_index
from signer.models import Attempt, EventLog, Incident, Lane
from tests.chaos_signer.stage import Stage


def judge(stage: Stage, requests: dict[int, list[int]]) -> list[str]:
    """Return what is wrong; requests: the numbers asked for on each chain."""
    wrong: list[str] = []
    for chain in stage.chains:
        wanted = requests[chain.chain_id]
        counted = Counter(chain.executions(number) for number in wanted)
        if counted != {1: len(wanted)}:
            wrong.append(f"chain {chain.chain_id}: executed so many times: {dict(counted)}")
        if chain.total() != len(wanted):
            wrong.append(f"chain {chain.chain_id}: {chain.total()} executions of {len(wanted)} requests")
    states = Counter(Transaction.objects.exclude(kind="FILLER").values_list("state", flat=True))
    if set(states) != {TransactionState.COMPLETED}:
        wrong.append(f"not all COMPLETED: {dict(states)}")
    return wrong + _nonces(stage) + _index(stage) + _trail()


def _trail() -> list[str]:
    """Return where keyguard's trail does not hold, and whether bytes were made that no record tells of."""
    signed = SigningRecord.objects.filter(state="SIGNED").values("hash")
    unknown = Attempt.objects.exclude(hash__in=signed).count()
    return [str(fault) for fault in verify_trail()] + [f"{unknown} attempts in no record"] * bool(unknown)


def _index(stage: Stage) -> list[str]:
    """Return where the event index says something else than a fresh read of the chains."""
    return [
        f"event index of chain {chain.chain_id}: {difference}"
        for chain in stage.chains
        for difference in compare_index(chain.chain_id)[:5]
    ]


def indexed(stage: Stage) -> bool:
    """Return whether the event index has read all that was sent."""
    return all(
        Holding.objects.filter(chain_id=chain.chain_id, balance_wei__gt=0).count()
        >= coins(stage, chain.chain_id)
        for chain in stage.chains
    )


def coins(stage: Stage, chain_id: int) -> int:
    """Return how many of the requests on a chain minted a coin."""
    coin = next(chain.coin for chain in stage.chains if chain.chain_id == chain_id)
    return Transaction.objects.filter(chain_id=chain_id, to=coin.address).count()


def _nonces(stage: Stage) -> list[str]:
    """Return the gaps: each lane's nonces must be all of 0 to the chain's count, and each one transaction's."""
    wrong = []
    nonces = defaultdict(list)
    for lane_id, nonce in Transaction.objects.order_by("nonce").values_list("lane_id", "nonce"):
        nonces[lane_id].append(nonce)
    anvils = {chain.chain_id: chain.anvil for chain in stage.chains}
    for lane in Lane.objects.all():
        used = int(anvils[lane.chain_id].rpc("eth_getTransactionCount", lane.address, "latest"), 16)
        if nonces[lane.pk] != list(range(used)):
            wrong.append(f"{lane}: the chain has used {used} nonces, ours are {len(nonces[lane.pk])}")
    return wrong


def noticed(stage: Stage) -> dict[str, int]:
    """Return the traces that the faults left in what the workers said."""
    return {
        "sent again": stage.count_in_logs("transactions_resent"),
        "answers lost": sum(chain.proxy.faults["dropped"] for chain in stage.chains),
        "reopened after a fork": stage.count_in_logs(r"\breopened=[1-9]"),
        "replaced": stage.count_in_logs("transaction_replaced"),
        "fenced": stage.count_in_logs("fenced"),
        "fillers": Transaction.objects.filter(kind="FILLER").count(),
        "logs taken back": EventLog.objects.filter(removed_at__isnull=False).count(),
        "intents whose process died": SigningRecord.objects.filter(error="KEYGUARD_ABANDONED").count(),
        "incidents": Incident.objects.count(),
    }
