"""What every backend can do."""

from collections.abc import Callable, Sequence
from typing import Protocol

from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT

# Signs digests of 32 bytes, in order: each signature is 65 bytes, r, s and recovery id.
Sign = Callable[[Sequence[bytes]], list[bytes]]


class Backend(Protocol):
    """Its errors are KeyguardErrors; anything else means *denied*."""

    def generate(self, alias: str, tenant: str = DEFAULT_TENANT) -> Key:
        """Make a new key and return its saved row."""

    def adopt(self, alias: str, secret: bytearray, tenant: str = DEFAULT_TENANT) -> Key:
        """Take an existing private key over and return its saved row. The caller wipes the secret."""

    def prepare(self, key: Key) -> Sign:
        """Find whatever it takes to sign with this key, but for the plaintext key, and return what signs.

        Apart from signing, so that a backend that is away is noticed before anything is recorded.
        """

    def destroy(self, key: Key) -> None:
        """Destroy what is kept of the key outside the database. What is gone already is no error."""

    def probe(self, references: Sequence[str]) -> str:
        """Say in words how it stands, or raise a KeyguardError. references: the keys that it should have."""
