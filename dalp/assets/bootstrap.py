"""Once per chain: the published ERC-3643 contracts, a claim issuer, our compliance modules, and the shared registry.

What a step sends at once doesn't depend on one another's addresses, so the chain's six levels of dependence cost six
waits, not one per transaction. A contract that a repeated step deploys anew is nobody's: only the addresses that the
last step records count.
"""

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from dalp.assets.calls import PATIENT, Sender, View, contract
from dalp.assets.models import Platform
from dalp.assets.platforms import CLAIM_PURPOSE, ECDSA, KYC_TOPIC, Contracts
from dalp.assets.suites import deploy_suite
from dalp.assets.values import ZERO_ADDRESS, Address, ChainId, Input, KeyName, Output
from keyguard import KeyNotFoundError, find_key
from signer import Contract, Receipt, TransactionRequest
from workflows import Operation, PermanentError, Workflow, step

# In the order of TREXContracts; the factory takes any order and fails later, without a reason.
IMPLEMENTATIONS = (
    "Token",
    "ClaimTopicsRegistry",
    "IdentityRegistry",
    "IdentityRegistryStorage",
    "TrustedIssuersRegistry",
    "ModularCompliance",
)
TREX_VERSION = (4, 1, 6)
# Given, not estimated: the suite can only be made after a transaction of the same list. Measured: 3 730 848.
SUITE_GAS_LIMIT = 6_000_000


class BootstrapInput(Input):
    """Three aliases of keys in keyguard; the first two pay for transactions on the chain."""

    chain_id: ChainId
    deployer: KeyName
    claim_issuer: KeyName
    claim_signer: KeyName


class PlatformKeys(Output):
    deployer: Address
    claim_issuer: Address
    claim_signer: Address


class BootstrappedPlatform(Output):
    """The platform of a chain, as it stands recorded."""

    chain_id: int
    deployer: Address
    contracts: Contracts


def key_hash(address: str) -> bytes:
    """Return how ERC-734 names the key of an address: the hash of its ABI encoding, padded to 32 bytes."""
    return keccak(encode(["address"], [address]))


def created(receipt: Receipt) -> str:
    """Return the address of the contract that a transaction made."""
    if receipt.contract_address is None:
        raise PermanentError(
            "NO_CONTRACT_CREATED", f"transaction {receipt.transaction_hash} created no contract"
        )
    return receipt.contract_address


def _address_of(alias: str) -> str:
    try:
        return find_key(alias).address
    except KeyNotFoundError:
        raise PermanentError("KEY_NOT_FOUND", f"there is no key named {alias!r}") from None


class BootstrapPlatform(Workflow[BootstrapInput, BootstrappedPlatform]):
    """Deploy and connect everything that tokens on this chain share."""

    class Meta:
        name, version, queue = "platform.bootstrap", 1, "assets"
        key = "platform:{input.chain_id}"

    @step(retry=PATIENT)
    def find_keys(self, input: BootstrapInput) -> PlatformKeys:
        """Refuse a chain that has a platform, and keys that don't exist, before anything is paid for."""
        if Platform.objects.filter(chain_id=input.chain_id).exists():
            raise PermanentError("PLATFORM_EXISTS", f"chain {input.chain_id} has a platform already")
        return PlatformKeys(
            deployer=_address_of(input.deployer),
            claim_issuer=_address_of(input.claim_issuer),
            claim_signer=_address_of(input.claim_signer),
        )

    @step(retry=PATIENT)
    def deploy_implementations(
        self, input: BootstrapInput, find_keys: PlatformKeys
    ) -> list[TransactionRequest]:
        """Everything that needs no other contract's address."""
        deployer = Sender(input.chain_id, input.deployer)
        return [
            *(deployer.deploy(name) for name in IMPLEMENTATIONS),
            deployer.deploy("TREXImplementationAuthority", True, ZERO_ADDRESS, ZERO_ADDRESS),
            deployer.deploy("Identity", find_keys.deployer, True),
            deployer.deploy("CountryAllow"),
            deployer.deploy("MaxBalance"),
            Sender(input.chain_id, input.claim_issuer).deploy("ClaimIssuer", find_keys.claim_issuer),
        ]

    @step(retry=PATIENT)
    def connect_implementations(
        self, input: BootstrapInput, find_keys: PlatformKeys, deploy_implementations: list[Receipt]
    ) -> list[TransactionRequest]:
        """The identities' authority, the suite's version, and the claim issuer's signing key."""
        addresses = [created(receipt) for receipt in deploy_implementations]
        implementations, (authority, identity, *_, issuer) = tuple(addresses[:6]), addresses[6:]
        deployer = Sender(input.chain_id, input.deployer)
        manager = Sender(input.chain_id, input.claim_issuer)
        trex, issuing = contract("TREXImplementationAuthority", authority), contract("ClaimIssuer", issuer)
        key = key_hash(find_keys.claim_signer)
        requests = [deployer.deploy("ImplementationAuthority", identity)]
        # Looked at first: both revert when a repeated step does them again.
        view = View(input.chain_id)
        if view.read(trex, "getTokenImplementation") == ZERO_ADDRESS:
            requests.append(deployer.call(trex, "addAndUseTREXVersion", TREX_VERSION, implementations))
        if not view.read(issuing, "keyHasPurpose", key, CLAIM_PURPOSE):
            requests.append(manager.call(issuing, "addKey", key, CLAIM_PURPOSE, ECDSA))
        return requests

    @step(retry=PATIENT)
    def deploy_identity_factory(
        self, input: BootstrapInput, connect_implementations: list[Receipt]
    ) -> TransactionRequest:
        """The factory of investors' identities."""
        return Sender(input.chain_id, input.deployer).deploy("IdFactory", created(connect_implementations[0]))

    @step(retry=PATIENT)
    def deploy_token_factory(
        self, input: BootstrapInput, deploy_implementations: list[Receipt], deploy_identity_factory: Receipt
    ) -> TransactionRequest:
        """The factory of token suites; its constructor refuses an incomplete implementation authority."""
        authority, identities = created(deploy_implementations[6]), created(deploy_identity_factory)
        return Sender(input.chain_id, input.deployer).deploy("TREXFactory", authority, identities)

    @step(retry=PATIENT)
    def open_factory(
        self,
        input: BootstrapInput,
        operation: Operation,
        find_keys: PlatformKeys,
        deploy_implementations: list[Receipt],
        deploy_identity_factory: Receipt,
        deploy_token_factory: Receipt,
    ) -> list[TransactionRequest]:
        """Let the token factory make identities, and deploy the reference suite whose registry every token shares."""
        deployer, view = Sender(input.chain_id, input.deployer), View(input.chain_id)
        identities = contract("IdFactory", created(deploy_identity_factory))
        authority = contract("TREXImplementationAuthority", created(deploy_implementations[6]))
        factory = contract("TREXFactory", created(deploy_token_factory))
        requests = [deployer.deploy("IAFactory", factory.address)]
        if not view.read(identities, "isTokenFactory", factory.address):
            requests.append(deployer.call(identities, "addTokenFactory", factory.address))
        if view.read(authority, "getTREXFactory") != factory.address:
            requests.append(deployer.call(authority, "setTREXFactory", factory.address))
        if view.read(factory, "getToken", str(operation.run_id)) == ZERO_ADDRESS:
            issuer = created(deploy_implementations[-1])
            requests.append(
                _reference_suite(deployer, factory, str(operation.run_id), find_keys.deployer, issuer)
            )
        return requests

    @step(retry=PATIENT)
    def complete_authority(
        self, input: BootstrapInput, deploy_implementations: list[Receipt], open_factory: list[Receipt]
    ) -> TransactionRequest:
        """Name the factory by which a token may later get an implementation authority of its own."""
        authority = contract("TREXImplementationAuthority", created(deploy_implementations[6]))
        return Sender(input.chain_id, input.deployer).call(
            authority, "setIAFactory", created(open_factory[0])
        )

    @step(retry=PATIENT)
    def find_contracts(
        self,
        input: BootstrapInput,
        operation: Operation,
        deploy_implementations: list[Receipt],
        deploy_identity_factory: Receipt,
        deploy_token_factory: Receipt,
        complete_authority: Receipt,
    ) -> Contracts:
        """Read from the chain what the reference suite consists of, and refuse a registry that can't be shared."""
        view = View(input.chain_id)
        factory = contract("TREXFactory", created(deploy_token_factory))
        token = contract("Token", view.read(factory, "getToken", str(operation.run_id)))
        registry = contract("IdentityRegistry", view.read(token, "identityRegistry"))
        storage = contract("IdentityRegistryStorage", view.read(registry, "identityStorage"))
        if view.read(storage, "owner") != factory.address:
            raise PermanentError(
                "REGISTRY_NOT_SHAREABLE", f"storage {storage.address} isn't owned by the token factory"
            )
        authority, _, countries, maximum, issuer = (
            created(receipt) for receipt in deploy_implementations[6:]
        )
        return Contracts(
            implementation_authority=authority,
            identity_factory=created(deploy_identity_factory),
            token_factory=created(deploy_token_factory),
            claim_issuer=issuer,
            country_allow=countries,
            max_balance=maximum,
            identity_registry=str(registry.address),
            identity_storage=str(storage.address),
        )

    @step(effect="transactional")
    def record_platform(
        self, input: BootstrapInput, operation: Operation, find_keys: PlatformKeys, find_contracts: Contracts
    ) -> BootstrappedPlatform:
        """From here on workflows of this chain find their contracts."""
        Platform.objects.create(
            chain_id=input.chain_id,
            run_id=operation.run_id,
            deployer_key=input.deployer,
            claim_issuer_key=input.claim_issuer,
            claim_signer_key=input.claim_signer,
            claim_topic=KYC_TOPIC,
            contracts=find_contracts.model_dump(mode="json"),
        )
        return BootstrappedPlatform(
            chain_id=input.chain_id, deployer=find_keys.deployer, contracts=find_contracts
        )


def _reference_suite(
    sender: Sender, factory: Contract, salt: str, owner: str, issuer: str
) -> TransactionRequest:
    """Return the deployment of the suite that is only there for its registry; its token is never minted."""
    return deploy_suite(
        sender,
        factory,
        salt,
        owner=owner,
        claim_issuer=issuer,
        name="DALP registry",
        symbol="REGISTRY",
        gas_limit=SUITE_GAS_LIMIT,
    )
