"""Fixtures of the tests of webhooks. Django is not set up yet when this is read."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from dalp.local.servers import AnvilServer
from tests.integration.webhooks.receiver import Receiver, receiving

if TYPE_CHECKING:
    from tests.integration.signer.stage import Stage
    from tests.integration.webhooks.rows import Rows


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    yield from receiving()


@pytest.fixture
def other() -> Iterator[Receiver]:
    yield from receiving()


@pytest.fixture
def rows(fresh_db: str) -> "Rows":
    """Transactions whose states the test writes itself, without a chain."""
    from tests.integration.webhooks.rows import Rows

    return Rows()


@pytest.fixture
def manual(
    fresh_db: str, start_anvil: Callable[..., AnvilServer], monkeypatch: pytest.MonkeyPatch
) -> "Stage":
    """A chain that mines only when told, with a confirmation depth of 3."""
    from django.conf import settings

    from signer.models import Chain
    from tests.integration.signer.stage import Stage

    monkeypatch.setitem(settings.SIGNER, "watch_slice_seconds", 0.3)
    stage = Stage(start_anvil(extra=["--no-mining"]))
    Chain.objects.update(confirmations=3)
    return stage
