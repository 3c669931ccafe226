"""The database goes away around a COMMIT, so nobody knows whether it was carried out: what is there afterwards decides."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from django.db import OperationalError

from signer import TransactionRequest, granting, submit_transaction, watching
from signer.models import Attempt, Chain, Lane, Transaction
from tests.database_proxy import DatabaseProxy, reached_through_a_proxy
from tests.integration.signer.stage import Stage

pytestmark = pytest.mark.postgresql("SQLite is a file, with no connection that could be lost")

cut_before_and_after = pytest.mark.parametrize("cut", ["before", "after"])
PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
def proxy(manual: Stage) -> Iterator[DatabaseProxy]:
    with reached_through_a_proxy() as proxy:
        yield proxy


def cut_at(monkeypatch: pytest.MonkeyPatch, point: str, proxy: DatabaseProxy, cut: str) -> None:
    """Have the COMMIT cut of the transaction that comes by the crash point."""

    def crashpoint(reached: str) -> None:
        if reached == point and not proxy.struck:
            proxy.cut = cut  # type: ignore[assignment]

    for module in (granting, watching):
        monkeypatch.setattr(module, "crashpoint", crashpoint)


def committed() -> dict[UUID, str]:
    return dict(Attempt.objects.values_list("transaction_id", "hash"))


def states() -> list[tuple[int | None, str]]:
    return list(Transaction.objects.order_by("created_at").values_list("nonce", "state"))


@pytest.mark.case("S18")
@cut_before_and_after
def test_request_repeated_after_a_lost_commit_is_one_transaction(
    manual: Stage, proxy: DatabaseProxy, cut: str
) -> None:
    request = TransactionRequest(chain_id=31337, sender="sender", to="0x" + "11" * 20, value=1)
    proxy.cut = cut  # type: ignore[assignment]
    with pytest.raises(OperationalError):
        submit_transaction(request, idempotency_key="one")
    _, is_new = submit_transaction(request, idempotency_key="one")
    assert (proxy.struck, is_new) == (1, cut == "before")
    assert Transaction.objects.count() == 1


@pytest.mark.case("S18")
@cut_before_and_after
def test_lost_commit_of_a_batch_gives_no_second_nonces(
    manual: Stage, proxy: DatabaseProxy, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    for _ in range(3):
        manual.submit()
    cut_at(monkeypatch, "signer.attempts_inserted", proxy, cut)
    with pytest.raises(OperationalError):
        manual.drain()
    goes_on_from_what_is_there(manual, proxy, cut)


@pytest.mark.case("S17")
@cut_before_and_after
def test_restart_of_the_database_during_the_commit_of_a_batch_gives_no_second_nonces(
    manual: Stage, proxy: DatabaseProxy, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """The lane cannot be given back either: the next worker gets it when the lease has run out."""
    for _ in range(3):
        manual.submit()
    proxy.stays_away = True
    cut_at(monkeypatch, "signer.attempts_inserted", proxy, cut)
    with pytest.raises(OperationalError):
        manual.drain()
    proxy.is_away = False
    manual.drain()
    assert manual.pool() == {}, "the lane is still owned"
    Lane.objects.update(lease_until=PAST)
    goes_on_from_what_is_there(manual, proxy, cut)


def goes_on_from_what_is_there(stage: Stage, proxy: DatabaseProxy, cut: str) -> None:
    assert (proxy.struck, stage.pool()) == (1, {})
    before = committed()
    assert len(before) == (3 if cut == "after" else 0)
    stage.drain()
    assert before.items() <= committed().items(), "what was committed is sent, and not signed anew"
    assert [entry["hash"] for entry in stage.pool().values()] == list(
        Attempt.objects.order_by("nonce").values_list("hash", flat=True)
    )
    stage.mine()
    stage.watch()
    assert states() == [(0, "COMPLETED"), (1, "COMPLETED"), (2, "COMPLETED")]
    assert stage.lane.next_nonce == 3


@pytest.mark.case("S17", "S18")
@cut_before_and_after
def test_lost_commit_of_the_watcher_settles_each_transaction_once(
    manual: Stage, proxy: DatabaseProxy, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    manual.submit()
    manual.drain()
    manual.mine()
    cut_at(monkeypatch, "signer.settling", proxy, cut)
    with pytest.raises(OperationalError):
        manual.watch()
    assert states() == [(0, "COMPLETED" if cut == "after" else "BROADCASTING")]
    settled_at = Transaction.objects.get().settled_at
    manual.watch()
    assert states() == [(0, "COMPLETED")]
    assert settled_at in (None, Transaction.objects.get().settled_at), "it ended once"
    assert Chain.objects.get().lease_until is None
