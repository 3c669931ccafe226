"""Keys that the clients of custodies sign with, and the settings that make them ask the fakes."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes.dfns import FakeDfns
from tests.fakes.fireblocks import FakeFireblocks

VAULT = "7/ETH_TEST5"


def pem(key: Any) -> str:
    """Return a private key as a setting holds it."""
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


class Credentials:
    """Made once for each process of tests: an RSA key takes long."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.rsa_public = self.rsa.public_key()
        self.ed25519 = ed25519.Ed25519PrivateKey.generate()
        self.ed25519_public = self.ed25519.public_key()

    def configure_fireblocks(self, settings: Any, fake: FakeFireblocks) -> None:
        settings.FIREBLOCKS_API_KEY = fake.api_key
        settings.FIREBLOCKS_SECRET_KEY = pem(self.rsa)
        settings.FIREBLOCKS_BASE_URL = fake.url
        settings.FIREBLOCKS_ASSETS = ["31337=ETH_TEST5", "1=ETH", "137=MATIC_POLYGON"]
        settings.FIREBLOCKS_REQUESTS_PER_SECOND = 1000.0
        close_clients()

    def configure_dfns(self, settings: Any, fake: FakeDfns) -> None:
        settings.DFNS_AUTH_TOKEN = fake.token
        settings.DFNS_CREDENTIAL_ID = fake.credential_id
        settings.DFNS_CREDENTIAL_KEY = pem(self.ed25519)
        settings.DFNS_BASE_URL = fake.url
        settings.DFNS_NETWORKS = ["31337=EthereumSepolia", "1=Ethereum"]
        settings.DFNS_REQUESTS_PER_SECOND = 1000.0
        close_clients()


def close_clients() -> None:
    """Close the clients' connections; the next question makes them anew."""
    from keyguard.backends import custodies

    custodies.forget()
