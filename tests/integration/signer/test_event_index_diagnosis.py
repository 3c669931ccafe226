"""What the doctor says about the event index."""

from datetime import timedelta

from django.utils import timezone

from dalp.index_diagnosis import check_event_index
from signer.models import EventIndex, Holding
from tests.integration.signer.coins import ANN, MINT, TALLY, Coins, Trouble


def test_the_doctor_looks_at_lag_handlers_and_holders(coins: Coins) -> None:
    assert check_event_index() == []
    token = coins.deploy()
    coins.watch(token)
    [nothing_yet] = check_event_index()
    assert (nothing_yet.ok, nothing_yet.detail) == (True, "1 contracts, nothing read yet")
    coins.move(token, (MINT, ANN, 5))
    coins.turn()
    reading, holders = check_event_index()
    assert (reading.ok, holders.ok) == (True, True)
    assert "0 behind" in reading.detail
    assert holders.detail == "1 tokens compared with their chains, all equal"

    Holding.objects.update(balance_wei=4)
    [_, holders] = check_event_index()
    assert not holders.ok
    assert f"{ANN}: the index has 4, the chain 5" in holders.detail

    other = coins.deploy()
    coins.watch(other, handler=TALLY)
    Trouble.apply = "666"
    coins.move(other, (MINT, ANN, 666))
    coins.turn()
    failing = check_event_index()[1]
    assert not failing.ok
    assert "cannot count 666" in failing.detail

    EventIndex.objects.update(head_number=coins.head() + 1000)
    assert not check_event_index()[0].ok
    EventIndex.objects.update(
        failing_since=timezone.now() - timedelta(hours=1), last_error="127.0.0.1: ReadTimeout"
    )
    assert "127.0.0.1: ReadTimeout" in check_event_index()[0].detail
