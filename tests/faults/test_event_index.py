"""The event index in real workers, killed in the middle of a commit while a chain goes on and forks."""

import pytest

from signer import RpcError, compare_index, index_status
from signer.models import Chain, EventIndex, EventLog
from signer.sweeping import sweep
from tests.integration.signer.coins import ANN, BEN, CAT, MINT, Coins
from tests.integration.signer.stage import Stage
from tests.services import Live

KILLED = 137
QUICK = {"DALP_SIGNER_LEASE_SECONDS": "2", "DALP_SIGNER_INDEX_SLICE_SECONDS": "1"}


@pytest.mark.case("PC3")
def test_a_killed_worker_s_successor_brings_the_index_to_what_the_chain_shows(live: Live) -> None:
    coins = Coins(Stage(live.anvil(block_time=0.2)))
    Chain.objects.update(confirmations=10)
    token = coins.deploy()
    contract = coins.watch(token, from_block=1)
    coins.move(token, (MINT, ANN, 100), (ANN, BEN, 1))
    worker = live.start_worker(fault="signer.index_handing_over=exit@3", env=QUICK)

    def died() -> bool:
        sweep()  # as beat does every second
        coins.move(token, (ANN, BEN, 1), (ANN, CAT, 1))
        return not worker.alive

    live.wait_until(died, 30, what="the worker dies in the middle of a commit")
    assert worker.returncode == KILLED, worker.tail()
    coins.reorg(2, (coins.moves(token, (ANN, CAT, 5)), 1))
    coins.move(token, *[(ANN, BEN, 1)] * 4)
    head = live.chains[0].block_number()
    live.start_worker(env=QUICK)

    def equal() -> bool:
        sweep()
        contract.refresh_from_db()
        try:
            index = EventIndex.objects.get(pk=31337)
            has_read = contract.own_number is None and (index.front_number or 0) >= head
            return has_read and compare_index(31337) == []
        except RpcError:  # it was read on meanwhile
            return False

    live.wait_until(equal, 30, what=lambda: str(index_status(31337)))
    live_logs = EventLog.objects.filter(removed_at__isnull=True)
    assert live_logs.count() == live_logs.values("block_number", "log_index").distinct().count() > 4
