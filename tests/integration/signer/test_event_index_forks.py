"""What a fork takes back from the index, and what it puts in its place."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from signer.events import following, handing_over, rewinding
from signer.models import Chain, EventIndex, EventLog, Incident, WatchedContract
from tests.integration.signer.coins import ANN, BEN, CAT, MINT, TALLY, Coins, Trouble, die_at
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Crash
from tests.sample.models import Effect


def watched(coins: Coins) -> str:
    """Return a token with both handlers, of which ANN has 100; the index is at the head."""
    token = coins.deploy()
    coins.watch(token)
    coins.watch(token, handler=TALLY)
    coins.move(token, (MINT, ANN, 100))
    coins.mine(4)
    coins.turn()
    return token


@pytest.mark.case("PC3")
@pytest.mark.sqlite_too
def test_a_fork_removes_moves_and_reorders_transfers(coins: Coins) -> None:
    token = watched(coins)
    Chain.objects.update(confirmations=20)
    gone = coins.moves(token, (ANN, BEN, 10))
    moved = coins.moves(token, (ANN, CAT, 20))
    first, second = coins.moves(token, (ANN, BEN, 1), (ANN, BEN, 2)), coins.moves(token, (BEN, CAT, 3))
    coins.send(gone)
    coins.send(moved)
    coins.send(first, second)
    coins.turn()
    assert coins.holders(token) == {ANN: 67, BEN: 10, CAT: 23}
    coins.require_equal()

    # Of the two that change places, the one that then comes too early fails: nothing of it is left.
    coins.reorg(3, (second, 0), (first, 1), (moved, 2))
    coins.turn()
    assert coins.holders(token) == {ANN: 77, BEN: 3, CAT: 20}
    coins.require_equal()
    removed = EventLog.objects.filter(removed_at__isnull=False, contract__handler=TALLY)
    assert removed.count() == 5
    assert not Incident.objects.exists()


@pytest.mark.case("PC3")
@pytest.mark.parametrize("depth", [1, 12])
def test_a_fork_of_any_depth_that_drops_everything_is_followed(coins: Coins, depth: int) -> None:
    token = coins.deploy()
    Chain.objects.update(confirmations=13)
    coins.watch(token, from_block=1)
    coins.watch(token, handler=TALLY)
    for number in range(14):
        coins.move(token, (MINT, ANN, number), (ANN, BEN, 0))
        if number % 5 == 0:
            coins.turn()
    coins.turn()
    coins.require_equal()
    coins.reorg(depth)
    coins.turn()
    assert coins.holders(token) == {ANN: sum(range(14 - depth))}
    coins.require_equal()
    coins.mine(3)
    coins.move(token, (MINT, CAT, 1))
    coins.turn()
    coins.require_equal()
    assert not Incident.objects.exists()


def test_a_fork_is_noticed_when_the_new_chain_is_much_longer(coins: Coins) -> None:
    token = watched(coins)
    coins.move(token, (ANN, BEN, 10))
    coins.turn()
    coins.reorg(1, (coins.moves(token, (ANN, CAT, 5)), 0))
    coins.mine(100)
    coins.turn()
    assert coins.holders(token) == {ANN: 95, CAT: 5}
    coins.require_equal()
    assert not Incident.objects.exists(), "what was replaced was not final, though it would be by now"


def test_a_chain_that_gets_shorter_takes_back_what_was_above_it(coins: Coins) -> None:
    token = watched(coins)
    snapshot = coins.rpc("evm_snapshot")
    for _ in range(5):
        coins.move(token, (ANN, BEN, 1))
    coins.turn()
    coins.rpc("evm_revert", snapshot)
    coins.turn()
    assert "lags" in coins.index.last_error, "shorter alone may be a node that lags"
    assert coins.holders(token)[BEN] == 5
    coins.move(token, (ANN, CAT, 1))
    coins.turn()
    assert coins.holders(token) == {ANN: 99, CAT: 1}
    coins.require_equal()


@pytest.mark.case("S66")
def test_a_fork_below_what_was_final_is_followed_and_people_are_told_once(coins: Coins) -> None:
    token = watched(coins)
    coins.move(token, (ANN, BEN, 10))
    coins.mine(2)
    coins.turn()
    assert coins.index.final_front == coins.head() - 2
    coins.reorg(4, (coins.moves(token, (ANN, CAT, 5)), 3))
    coins.turn()
    coins.require_equal()
    [incident] = Incident.objects.all()
    assert (incident.kind, incident.subject) == ("DEEP_REORG", "index of chain 31337")
    assert f"blocks from {coins.head() - 3} on were replaced" in incident.text
    coins.reorg(4)
    coins.turn()
    coins.require_equal()
    assert Incident.objects.count() == 1


@pytest.mark.case("S66")
def test_a_fork_deeper_than_all_that_is_remembered_is_found_by_the_logs(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEPT", 5)
    monkeypatch.setattr(handing_over, "TAKEN_BACK_AT_ONCE", 3)
    token, other = coins.deploy(), coins.deploy()
    for each in (token, other):
        coins.watch(each, from_block=1)
        coins.watch(each, handler=TALLY, from_block=1)
    for number in range(30):
        coins.move(token, (MINT, ANN, number))
        if number in {2, 20}:
            coins.move(other, (MINT, BEN, number))
    coins.turn()
    coins.mine(1)
    coins.turn()
    coins.mine(12)
    coins.turn()
    assert coins.index.blocks.count() < 20
    coins.reorg(32, (coins.moves(token, (MINT, CAT, 9)), 3), (coins.moves(other, (MINT, CAT, 9)), 4))
    coins.turn()
    coins.require_equal()
    assert coins.holders(other) == {BEN: 2, CAT: 9}
    assert Incident.objects.get().kind == "DEEP_REORG"


def test_a_fork_below_all_that_is_known_begins_again(coins: Coins) -> None:
    coins.mine(40)
    token = coins.deploy()
    coins.watch(token, from_block=coins.head() - 20)
    coins.turn()
    coins.mine(1)
    coins.reorg(30, (coins.moves(token, (MINT, ANN, 1)), 3))  # the token is no more: nothing happens
    coins.turn()
    coins.require_equal()
    assert coins.holders(token) == {}


def test_another_chain_behind_the_url_undoes_nothing(coins: Coins, start_anvil: Callable[..., Any]) -> None:
    from signer import register_chain
    from signer.models import Endpoint

    token = watched(coins)
    other = start_anvil(chain_id=5)
    other.mine(60)
    Endpoint.objects.update(url=other.url)
    coins.turn()
    assert "serves chain 5" in coins.index.last_error
    assert coins.holders(token) == {ANN: 100}
    register_chain(31337, "test", [coins.stage.anvil.url])  # as `add_chain` corrects it
    coins.turn()
    coins.require_equal()


def test_a_fork_takes_back_from_those_that_are_behind_paused_or_failing(coins: Coins) -> None:
    from signer import pause_contract, resume_contract

    paused, failing, behind = coins.deploy(), coins.deploy(), coins.deploy()
    Chain.objects.update(confirmations=20)
    rows = [coins.watch(token, handler=TALLY, from_block=1) for token in (paused, failing, behind)]
    coins.mine(3)
    for token in (paused, failing, behind):
        coins.move(token, (MINT, ANN, 1))
    coins.turn()
    pause_contract(rows[0].pk, actor="ada", reason="look")
    Trouble.apply = "666"
    coins.move(failing, (MINT, ANN, 666))
    coins.turn()
    WatchedContract.objects.filter(pk=rows[2].pk).update(own_number=coins.head() - 1)
    assert Effect.objects.count() == 3
    coins.reorg(4, (coins.moves(behind, (MINT, BEN, 2)), 1))
    coins.turn()
    assert Effect.objects.count() == 3, "the paused and the failing one are undone when they go on"
    Trouble.apply = ""
    resume_contract(rows[0].pk, actor="ada", reason="seen")
    resume_contract(rows[1].pk, actor="ada", reason="mended")
    coins.turn()
    assert Effect.objects.count() == 1
    coins.require_equal()


def test_an_undo_that_fails_stops_its_own_contract_until_it_is_mended(coins: Coins) -> None:
    token = watched(coins)
    Chain.objects.update(confirmations=20)
    coins.move(token, (ANN, BEN, 10))
    coins.turn()
    Trouble.undo = True
    coins.reorg(1, (coins.moves(token, (ANN, CAT, 10)), 0))
    coins.turn()
    assert coins.holders(token) == {ANN: 90, CAT: 10}
    contract = WatchedContract.objects.get(handler=TALLY)
    assert (contract.state, contract.rewinding) == ("FAILED", True)
    assert "cannot uncount" in Incident.objects.get().text
    Trouble.undo = False
    WatchedContract.objects.update(retry_at=timezone.now())
    coins.turn()
    contract.refresh_from_db()
    assert contract.state == "ACTIVE"
    assert not Incident.objects.filter(closed_at__isnull=True).exists()
    coins.require_equal()


@pytest.mark.sqlite_too
def test_a_death_while_a_fork_is_followed_takes_back_and_hands_over_once(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = watched(coins)
    Chain.objects.update(confirmations=20)
    for point in ("signer.index_rewinding", "signer.index_handing_over", "signer.index_handed_over"):
        for number in range(3):
            coins.move(token, (ANN, BEN, number))
        coins.turn()
        before = coins.holders(token).get(CAT, 0)
        coins.reorg(3, (coins.moves(token, (ANN, CAT, 10)), 2))
        left = die_at(monkeypatch, point)
        with pytest.raises(Crash):
            coins.turn()
        assert left == [0], point
        coins.turn()
        assert coins.holders(token) == {ANN: 90 - before, CAT: before + 10}
        coins.require_equal()


def test_a_worker_that_was_replaced_takes_nothing_back(coins: Coins, monkeypatch: pytest.MonkeyPatch) -> None:
    token = watched(coins)
    Chain.objects.update(confirmations=20)
    coins.move(token, (ANN, BEN, 10))
    coins.turn()
    coins.reorg(1, (coins.moves(token, (ANN, CAT, 10)), 0))
    found = rewinding.fork_point

    def freeze(*arguments: Any) -> Any:
        monkeypatch.setattr(rewinding, "fork_point", found)
        EventIndex.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        coins.turn()
        return found(*arguments)

    monkeypatch.setattr(rewinding, "fork_point", freeze)
    coins.turn()
    assert EventLog.objects.filter(removed_at__isnull=False, contract__handler=TALLY).count() == 1
    coins.require_equal()


@pytest.mark.parametrize("moment", ["the next block is asked for", "its logs are asked for"])
def test_a_fork_between_two_answers_of_the_node_is_read_again(
    coins: Coins, liar: LyingNode, moment: str
) -> None:
    token = watched(coins)
    Chain.objects.update(confirmations=20)
    coins.move(token, (ANN, BEN, 10))
    coins.turn()
    coins.move(token, (ANN, BEN, 1))
    forked: list[int] = []

    def lie(call: dict[str, Any]) -> None:
        is_next = call["method"] == "eth_getBlockByNumber" and call["params"][0] == hex(coins.head())
        reached = is_next if moment == "the next block is asked for" else call["method"] == "eth_getLogs"
        if reached and not forked:
            forked.append(1)
            coins.reorg(2, (coins.moves(token, (ANN, CAT, 5)), 0))

    liar.lie = lie
    for _ in range(3):
        coins.turn()
    assert forked
    assert coins.holders(token) == {ANN: 95, CAT: 5}
    coins.require_equal()


POINTS = (
    "signer.index_read",
    "signer.index_handing_over",
    "signer.index_handed_over",
    "signer.index_rewinding",
)


class Fate:
    """What befalls the index, drawn by lot."""

    def __init__(self, coins: Coins, seed: int) -> None:
        self.coins, self.lot = coins, random.Random(seed)
        self.tokens = [coins.deploy() for _ in range(3)]
        self.unwatched = [(token, handler) for token in self.tokens for handler in ("erc20.holders", TALLY)]
        self.deaths = self.forks = 0
        coins.mine(3)
        self.floor = coins.head()  # the tokens themselves stay

    def moves(self) -> dict[str, str]:
        lot, people = self.lot, (MINT, ANN, BEN, CAT)
        some = [
            (lot.choice(people), lot.choice(people), lot.choice((0, 1, 5, 50)))
            for _ in range(lot.randint(1, 4))
        ]
        return self.coins.moves(self.lot.choice(self.tokens), (MINT, lot.choice(people[1:]), 40), *some)

    def befall(self) -> None:
        what = self.lot.choices(
            (self.send, self.mine, self.fork, self.watch, self.change_range, self.turn, self.die),
            (6, 2, 3, 2, 1, 5, 3),
        )
        what[0]()

    def send(self) -> None:
        self.coins.send(*(self.moves() for _ in range(self.lot.randint(1, 3))))

    def mine(self) -> None:
        self.coins.mine(self.lot.choice((1, 2, 30)))

    def fork(self) -> None:
        depth = min(self.lot.choice((1, 2, 5, 12, 40)), self.coins.head() - self.floor)
        if depth > 0:
            self.forks += 1
            chosen = sorted(self.lot.randrange(depth) for _ in range(self.lot.randint(0, 4)))
            self.coins.reorg(depth, *((self.moves(), place) for place in chosen))

    def watch(self) -> None:
        if self.unwatched:
            token, handler = self.unwatched.pop(self.lot.randrange(len(self.unwatched)))
            self.coins.watch(token, handler=handler)

    def change_range(self) -> None:
        EventIndex.objects.update(range_blocks=self.lot.choice((1, 3, 10, 1000)))

    def turn(self) -> None:
        self.coins.turn()

    def die(self) -> None:
        self.send()
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(settings.SIGNER, "index_slice_seconds", self.lot.choice((0, 3)))
            die_at(patched, self.lot.choice(POINTS))
            try:
                self.coins.turn()
            except Crash:
                self.deaths += 1


@pytest.mark.case("PC3")
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_befalls_it_the_index_equals_the_chain(
    coins: Coins, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEPT", 20)
    monkeypatch.setattr(handing_over, "TAKEN_BACK_AT_ONCE", 3)
    fate = Fate(coins, seed)
    fate.watch()
    for _ in range(60):
        fate.befall()
    while fate.unwatched:
        fate.watch()
    coins.move(fate.tokens[0], (MINT, ANN, 1))
    for _ in range(3):
        coins.turn()
    coins.require_equal()
    assert fate.deaths
    assert fate.forks
    assert EventLog.objects.filter(removed_at__isnull=False).exists()
