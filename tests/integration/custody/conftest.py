"""Custodies that stand in for Fireblocks and DFNS, and the real clients of them, configured."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.credentials import VAULT, Credentials, close_clients
from tests.fakes.dfns import FakeDfns
from tests.fakes.fireblocks import FakeFireblocks

if TYPE_CHECKING:
    from keyguard.models import Key


@pytest.fixture(scope="session")
def credentials() -> Credentials:
    return Credentials()


@pytest.fixture
def fireblocks(credentials: Credentials, settings: Any) -> Iterator[FakeFireblocks]:
    fake = FakeFireblocks("api-key-of-the-tests", credentials.rsa_public)
    credentials.configure_fireblocks(settings, fake)
    yield fake
    close_clients()
    fake.stop()


@pytest.fixture
def dfns(credentials: Credentials, settings: Any) -> Iterator[FakeDfns]:
    fake = FakeDfns("token-of-the-tests", "cr-1", credentials.ed25519_public)
    credentials.configure_dfns(settings, fake)
    yield fake
    close_clients()
    fake.stop()


@pytest.fixture
def bound(fresh_db: str, fireblocks: FakeFireblocks) -> "Key":
    """A key at Fireblocks."""
    import keyguard  # not before Django is set up

    return keyguard.bind_key("treasury", "fireblocks", VAULT)
