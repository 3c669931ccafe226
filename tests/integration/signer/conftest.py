"""Fixtures of the signer's tests. Django is not set up yet when this is read: what needs it is imported in fixtures."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from dalp.local.servers import AnvilServer

if TYPE_CHECKING:
    from tests.ethereumjs import EthereumJs
    from tests.integration.signer.coins import Coins
    from tests.integration.signer.custody_server import CustodyServer
    from tests.integration.signer.lying_node import LyingNode
    from tests.integration.signer.stage import SecondStage, Stage


@pytest.fixture
def stage(fresh_db: str, anvil: AnvilServer) -> "Stage":
    """A chain that mines a block for each transaction."""
    from tests.integration.signer.stage import Stage

    return Stage(anvil)


@pytest.fixture
def manual(fresh_db: str, start_anvil: Callable[..., AnvilServer]) -> "Stage":
    """A stage whose chain mines only when told: `manual.rpc("evm_mine")`."""
    from tests.integration.signer.stage import Stage

    return Stage(start_anvil(extra=["--no-mining"]))


@pytest.fixture(scope="session")
def ethereumjs() -> Iterator["EthereumJs"]:
    """A second client, for all the tests that leave it usable."""
    from tests.ethereumjs import EthereumJs

    node = EthereumJs()
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture
def second(fresh_db: str, ethereumjs: "EthereumJs") -> "SecondStage":
    """A stage on EthereumJS, which mines only when told: `second.mine()`, `second.consensus`."""
    from tests.integration.signer.stage import SecondStage

    return SecondStage(ethereumjs)


@pytest.fixture
def second_alone(fresh_db: str) -> Iterator["SecondStage"]:
    """As `second`, on a chain that begins with the test and ends with it."""
    from tests.ethereumjs import EthereumJs
    from tests.integration.signer.stage import SecondStage

    node = EthereumJs()
    try:
        node.start()
        yield SecondStage(node)
    finally:
        node.stop()


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch looks a few times and returns; the tests call it again."""
    from django.conf import settings

    monkeypatch.setitem(settings.SIGNER, "watch_slice_seconds", 0.3)


@pytest.fixture
def liar(manual: "Stage") -> Iterator["LyingNode"]:
    """The signer of `manual` talks to its node through this one."""
    from signer.models import Endpoint
    from tests.integration.signer.lying_node import LyingNode

    node = LyingNode(manual.anvil.url)
    Endpoint.objects.update(url=node.url)
    yield node
    node.stop()


@pytest.fixture
def pair(manual: "Stage") -> Iterator[tuple["LyingNode", "LyingNode"]]:
    """The signer of `manual` has two endpoints, in this order, before the same node."""
    from signer.models import Endpoint
    from tests.integration.signer.lying_node import LyingNode

    nodes = LyingNode(manual.anvil.url), LyingNode(manual.anvil.url)
    Endpoint.objects.all().delete()
    for position, node in enumerate(nodes):
        Endpoint.objects.create(chain=manual.chain, url=node.url, position=position)
    yield nodes
    for node in nodes:
        node.stop()


@pytest.fixture
def coins(manual: "Stage") -> "Coins":
    """A chain that mines when told, with a confirmation depth of 3, and the event index over it."""
    from signer.models import Chain
    from tests.integration.signer.coins import Coins

    Chain.objects.update(confirmations=3)
    return Coins(manual)


@pytest.fixture
def custody(stage: "Stage", monkeypatch: pytest.MonkeyPatch) -> Iterator["CustodyServer"]:
    """A custody that sends by itself, on the chain of `stage`; it has money, and its key has the alias "vault"."""
    import keyguard
    from keyguard import custodians
    from tests.integration.signer.custody_server import CustodyServer, HttpCustodian
    from tests.integration.signer.stage import RICH

    server = CustodyServer(stage.anvil)
    stage.rpc("anvil_setBalance", server.address, RICH)
    monkeypatch.setitem(custodians.CUSTODIANS, "custody", lambda: HttpCustodian(server))
    keyguard.bind_key("vault", "custody", "vault-1")
    yield server
    server.stop()
