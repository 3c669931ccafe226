"""Where a chain's factories, registries and modules are, and which keys own them."""

from dataclasses import dataclass

from dalp.assets.calls import Sender, View, contract
from dalp.assets.models import Platform
from dalp.assets.values import Address, Output
from signer import Contract
from workflows import PermanentError

# What a token declares as proof that its holder's identity was checked; 0 would make isVerified revert.
KYC_TOPIC = 1
# Source: OnchainID, ERC-734 purposes and key types, ERC-735 schemes.
MANAGEMENT_PURPOSE, CLAIM_PURPOSE, ECDSA = 1, 3, 1


class Contracts(Output):
    """The addresses of what a bootstrap deployed."""

    implementation_authority: Address
    identity_factory: Address
    token_factory: Address
    claim_issuer: Address
    country_allow: Address
    max_balance: Address
    # Of the reference suite: investors are registered and checked here, for every token (docs/adr/0005).
    identity_registry: Address
    identity_storage: Address


@dataclass(frozen=True)
class OnChain:
    """One chain's platform, ready to be read and called."""

    chain_id: int
    deployer_key: str
    claim_issuer_key: str
    claim_signer_key: str
    claim_topic: int
    addresses: Contracts

    @property
    def deployer(self) -> Sender:
        return Sender(self.chain_id, self.deployer_key)

    @property
    def view(self) -> View:
        return View(self.chain_id)

    @property
    def identity_factory(self) -> Contract:
        return contract("IdFactory", self.addresses.identity_factory)

    @property
    def token_factory(self) -> Contract:
        return contract("TREXFactory", self.addresses.token_factory)

    @property
    def claim_issuer(self) -> Contract:
        return contract("ClaimIssuer", self.addresses.claim_issuer)

    @property
    def country_allow(self) -> Contract:
        return contract("CountryAllow", self.addresses.country_allow)

    @property
    def max_balance(self) -> Contract:
        return contract("MaxBalance", self.addresses.max_balance)

    @property
    def identity_registry(self) -> Contract:
        return contract("IdentityRegistry", self.addresses.identity_registry)

    @property
    def identity_storage(self) -> Contract:
        return contract("IdentityRegistryStorage", self.addresses.identity_storage)


def platform_on(chain_id: int) -> OnChain:
    """Return the platform of a chain; PermanentError when nobody bootstrapped it."""
    row = Platform.objects.filter(chain_id=chain_id).first()
    if row is None:
        raise PermanentError(
            "PLATFORM_NOT_BOOTSTRAPPED",
            f"chain {chain_id} has no platform: run the workflow platform.bootstrap first",
        )
    contracts = Contracts.model_validate(row.contracts)
    keys = (row.deployer_key, row.claim_issuer_key, row.claim_signer_key)
    return OnChain(chain_id, *keys, row.claim_topic, contracts)
