"""The published contracts on a local chain, set up with web3 and anvil's unlocked accounts alone.

It uses nothing of the platform but the artifacts' files, so what it says about the chain is a second opinion.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils import keccak
from web3 import HTTPProvider, Web3
from web3.contract import Contract

from dalp.assets.artifacts import artifact

ZERO = "0x" + "0" * 40
TOPIC = 1
CLAIM_SIGNER = Account.from_key(keccak(b"the claim signer of the tests"))


@dataclass(frozen=True)
class Suite:
    """One token and its own contracts."""

    token: Contract
    registry: Contract
    compliance: Contract


class Published:
    """Factories, a trusted claim issuer and our two modules; suites and investors as a test wants them."""

    def __init__(self, url: str) -> None:
        self.w3 = Web3(HTTPProvider(url))
        self.owner, self.stranger, *self.wallets = self.w3.eth.accounts
        self.counter = itertools.count(1)
        names = (
            "Token",
            "ClaimTopicsRegistry",
            "IdentityRegistry",
            "IdentityRegistryStorage",
            "TrustedIssuersRegistry",
        )
        implementations = [self.deploy(name).address for name in (*names, "ModularCompliance")]
        authority = self.deploy("TREXImplementationAuthority", True, ZERO, ZERO)
        self.send(authority.functions.addAndUseTREXVersion((4, 1, 6), tuple(implementations)))
        identity = self.deploy("Identity", self.owner, True)
        self.identities = self.deploy(
            "IdFactory", self.deploy("ImplementationAuthority", identity.address).address
        )
        self.factory = self.deploy("TREXFactory", authority.address, self.identities.address)
        self.send(self.identities.functions.addTokenFactory(self.factory.address))
        self.issuer = self.deploy("ClaimIssuer", self.owner)
        key = keccak(encode(["address"], [CLAIM_SIGNER.address]))
        self.send(self.issuer.functions.addKey(key, 3, 1))
        self.countries, self.maximum = self.deploy("CountryAllow"), self.deploy("MaxBalance")

    def at(self, name: str, address: str) -> Contract:
        return self.w3.eth.contract(address=Web3.to_checksum_address(address), abi=artifact(name).abi)

    def deploy(self, name: str, *arguments: Any) -> Contract:
        factory = self.w3.eth.contract(abi=artifact(name).abi, bytecode=artifact(name).bytecode)
        receipt = self.w3.eth.wait_for_transaction_receipt(
            factory.constructor(*arguments).transact({"from": self.owner})
        )
        return self.at(name, receipt["contractAddress"])

    def send(self, call: Any, sender: str | None = None) -> Any:
        receipt = self.w3.eth.wait_for_transaction_receipt(call.transact({"from": sender or self.owner}))
        assert receipt["status"] == 1
        return receipt

    def suite(self, modules: list[Contract], settings: list[bytes], storage: str = ZERO) -> Suite:
        """Deploy a token, bind the modules and call the settings on them; `owner` is owner and agent."""
        salt = f"suite-{next(self.counter)}"
        details = (self.owner, "Test Bond", "TB", 0, storage, ZERO, [self.owner], [self.owner])
        claims = ([TOPIC], [self.issuer.address], [[TOPIC]])
        addresses = [module.address for module in modules]
        self.send(self.factory.functions.deployTREXSuite(salt, (*details, addresses, settings), claims))
        token = self.at("Token", self.factory.functions.getToken(salt).call())
        registry = self.at("IdentityRegistry", token.functions.identityRegistry().call())
        return Suite(token, registry, self.at("ModularCompliance", token.functions.compliance().call()))

    def identity(self, wallet: str) -> Contract:
        """Return an identity with a KYC claim of the trusted issuer, for a wallet that has none yet."""
        salt = f"investor-{next(self.counter)}"
        own_key = keccak(encode(["address"], [self.owner]))
        self.send(self.identities.functions.createIdentityWithManagementKeys(wallet, salt, [own_key]))
        identity = self.at("Identity", self.identities.functions.getIdentity(wallet).call())
        digest = keccak(encode(["address", "uint256", "bytes"], [identity.address, TOPIC, b"kyc"]))
        signature = bytes(CLAIM_SIGNER.sign_message(encode_defunct(primitive=digest)).signature)
        self.send(identity.functions.addClaim(TOPIC, 1, self.issuer.address, signature, b"kyc", ""))
        return identity

    def register(self, suite: Suite, wallet: str, identity: Contract, country: int = 250) -> None:
        self.send(suite.registry.functions.registerIdentity(wallet, identity.address, country))

    def set(
        self, suite: Suite, module: Contract, function: str, *arguments: Any, sender: str | None = None
    ) -> Any:
        """Change a module's setting as the compliance's owner does."""
        data = module.encode_abi(function, list(arguments))
        return self.send(suite.compliance.functions.callModuleFunction(data, module.address), sender)
