"""Nodes of another chain, or of ours begun anew: nothing is signed for them, and they get nothing."""

from collections.abc import Callable, Iterator

import pytest

from dalp.local.servers import AnvilServer
from signer import ChainMismatchError
from signer.chains import connect
from signer.models import Endpoint, Incident
from signer.states import IncidentKind, PauseKind, TransactionState
from tests.integration.signer.endpoints import Pair, endpoint, open_incidents, state
from tests.integration.signer.lying_node import SEND, LyingNode
from tests.integration.signer.stage import Stage, wait


@pytest.fixture
def stranger(start_anvil: Callable[..., AnvilServer]) -> Iterator[LyingNode]:
    """A node of another chain."""
    node = LyingNode(start_anvil(chain_id=5).url)
    yield node
    node.stop()


@pytest.mark.case("S49", "PC10")
def test_node_of_another_chain_is_not_used_beside_one_of_ours(
    manual: Stage, pair: Pair, stranger: LyingNode
) -> None:
    endpoint(pair[0]).delete()
    Endpoint.objects.create(chain=manual.chain, url=stranger.url, position=0)
    Endpoint.objects.filter(url=pair[1].url).update(position=1)
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    assert (stranger.seen[SEND], pair[1].seen[SEND]) == (0, 1)
    assert endpoint(stranger).pause_kind == PauseKind.WRONG_CHAIN
    assert open_incidents() == [IncidentKind.WRONG_CHAIN]
    assert "serves chain 5, not 31337" in Incident.objects.get().text


@pytest.mark.case("S49", "PC10")
def test_when_only_a_node_of_another_chain_is_left_nothing_is_signed_or_sent(
    manual: Stage, liar: LyingNode, stranger: LyingNode
) -> None:
    Endpoint.objects.update(url=stranger.url)
    row = manual.submit()
    for _ in range(3):
        manual.drain()
    assert state(row) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    assert manual.attempts(row.pk) == []
    assert (stranger.seen[SEND], liar.seen[SEND]) == (0, 0)
    with pytest.raises(ChainMismatchError):
        connect(manual.chain).call("eth_blockNumber")
    assert isinstance(connect(manual.chain).broadcast([b"\x02"])[0], ChainMismatchError)


@pytest.mark.case("S68")
def test_chain_that_was_begun_anew_gets_nothing(
    manual: Stage, liar: LyingNode, start_anvil: Callable[..., AnvilServer]
) -> None:
    sent, waiting = manual.submit(), None
    manual.drain()
    # The same id, another genesis block.
    liar.node_url = start_anvil(extra=["--no-mining", "--timestamp", "1600000000"]).url
    liar.raw.clear()
    waiting = manual.submit()
    manual.drain()
    assert liar.raw == []
    assert state(waiting) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    assert state(sent)[0] == TransactionState.BROADCASTING
    assert open_incidents() == [IncidentKind.WRONG_CHAIN]


@pytest.mark.case("S68")
def test_bytes_are_not_sent_to_a_node_that_has_not_said_who_it_is(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, identity_seconds=0)
    liar.lie = lambda call: {"result": "0x1"} if call["method"] == "eth_chainId" else None
    [answer] = connect(manual.chain).broadcast(["0x02"])
    assert isinstance(answer, ChainMismatchError)
    assert liar.raw == []
