"""A chain whose node hangs, beside one whose node works, in one worker of few slots."""

import time
from collections.abc import Iterator
from statistics import median

import pytest

from keyguard import create_key
from signer import Transaction, TransactionRequest, queue, register_chain, submit_transaction
from signer.models import Endpoint
from signer.states import TransactionState
from signer.sweeping import sweep
from tests.integration.signer.lying_node import LyingNode
from tests.services import Live

HUNG, WELL = 6, 7
SLOTS = 3
# Until the first slots have found out that a node hangs, for all of them. One that waits for it would be away for 16 s.
FOUND_OUT_SECONDS = 3.0


@pytest.fixture
def liar(live: Live) -> Iterator[LyingNode]:
    """Two chains, the first behind the liar, and lanes on both."""
    anvils = [live.anvil(chain_id=chain_id, block_time=0.2) for chain_id in (HUNG, WELL)]
    node = LyingNode(anvils[0].url)
    register_chain(HUNG, "hung", [node.url], block_time=0.2)
    register_chain(WELL, "well", [anvils[1].url], block_time=0.2)
    for number in range(2 * SLOTS):
        key = create_key(f"sender-{number}")
        for anvil in anvils:
            anvil.fund(key.address)
    yield node
    node.stop()


def submit(chain_id: int, sender: int) -> Transaction:
    request = TransactionRequest(chain_id=chain_id, to="0x" + "11" * 20, value=1, sender=f"sender-{sender}")
    return submit_transaction(request, idempotency_key=f"{chain_id} {sender} {time.monotonic_ns()}")[0]


def completed(live: Live, rows: list[Transaction], timeout: float) -> float:
    """Wait until they are, sweeping as beat does; return how long that took."""
    began = time.monotonic()

    def ended() -> bool:
        sweep()
        ids = [row.pk for row in rows]
        return not Transaction.objects.filter(pk__in=ids).exclude(state=TransactionState.COMPLETED).exists()

    live.wait_until(ended, timeout, what="the transactions are completed")
    return time.monotonic() - began


def waits_on_the_other(live: Live) -> list[float]:
    """Return how long each of some transactions took, one after another, on the chain whose node works."""
    return [completed(live, [submit(WELL, number)], 60) for number in range(2 * SLOTS)]


@pytest.mark.case("S24")
@pytest.mark.timeout(180)
def test_hung_chain_does_not_hold_up_another_one_in_the_same_worker(live: Live, liar: LyingNode) -> None:
    live.start_worker(concurrency=SLOTS)
    everybody = range(2 * SLOTS)
    completed(live, [submit(chain, number) for chain in (HUNG, WELL) for number in everybody], 30)
    busy = [submit(HUNG, number) for number in everybody]
    usual = waits_on_the_other(live)
    completed(live, busy, 30)
    asked, liar.delay = liar.requests, 60
    stuck = [submit(HUNG, number) for number in everybody]  # more lanes than slots
    live.wait_until(lambda: liar.requests > asked, 10, what="the hung node is asked")
    waits = waits_on_the_other(live)
    assert median(waits) < 2 * median(usual) + 0.5, (usual, waits)
    assert max(waits) < 2 * max(usual) + FOUND_OUT_SECONDS, (usual, waits)
    assert queue.is_slow(HUNG) or Endpoint.objects.get(chain_id=HUNG).paused_until is not None
    states = set(Transaction.objects.filter(pk__in=[row.pk for row in stuck]).values_list("state", flat=True))
    assert TransactionState.COMPLETED not in states
    liar.delay = 0
    completed(live, stuck, 60)
