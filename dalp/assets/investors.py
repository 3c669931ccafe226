"""Register an investor: an identity, a KYC claim about it, and its place in the registry that every token shares.

The platform pays for everything: the identity is made with the platform's key as its management key, so the
investor's wallet needs no gas and signs nothing. A repeated step sends only what the chain doesn't show yet.
"""

import json
from datetime import date
from typing import Annotated

from django.db.models.functions import Now
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from pydantic import Field

from dalp.assets.bootstrap import key_hash
from dalp.assets.calls import PATIENT, contract
from dalp.assets.models import Investor
from dalp.assets.platforms import ECDSA, MANAGEMENT_PURPOSE, OnChain, platform_on
from dalp.assets.values import ZERO_ADDRESS, Address, ChainId, Country, Input, Name, Output
from keyguard import find_key, sign_message
from signer import Contract, Receipt, TransactionRequest
from workflows import Operation, PermanentError, Workflow, step

HexText = Annotated[str, Field(pattern="^0x[0-9a-f]*$")]


class KycRecord(Input):
    """Who checked the investor, under which reference, when. The chain gets only a digest of it."""

    provider: Name
    reference: Name
    checked_on: date


class RegisterInvestorInput(Input):
    chain_id: ChainId
    wallet: Address
    country: Country
    kyc: KycRecord


class Claim(Output):
    """A KYC claim about an identity, signed by the claim issuer's key."""

    identity: Address
    topic: int
    data: HexText
    signature: HexText


class RegisteredInvestor(Output):
    chain_id: int
    wallet: Address
    identity: Address
    country: int


class RegisterInvestor(Workflow[RegisterInvestorInput, RegisteredInvestor]):
    """Make the investor's wallet eligible for every token of the platform, as far as its country is allowed there."""

    class Meta:
        name, version, queue = "investor.register", 1, "assets"
        key = "investor:{input.chain_id}:{input.wallet}"

    @step(retry=PATIENT)
    def create_identity(self, input: RegisterInvestorInput) -> list[TransactionRequest]:
        """An identity for the wallet, unless the identity factory knows one."""
        platform = platform_on(input.chain_id)
        factory, manager = platform.identity_factory, find_key(platform.deployer_key).address
        if input.wallet == manager:
            raise PermanentError(
                "WALLET_IS_PLATFORM_KEY", "the platform's own key can't be an investor's wallet"
            )
        if platform.view.read(factory, "getIdentity", input.wallet) != ZERO_ADDRESS:
            return []
        keys = [key_hash(manager)]
        label = f"create the identity of {input.wallet}"
        arguments = (input.wallet, f"investor-{input.wallet}", keys)
        return [platform.deployer.call(factory, "createIdentityWithManagementKeys", *arguments, label=label)]

    @step(retry=PATIENT)
    def sign_claim(
        self, input: RegisterInvestorInput, operation: Operation, create_identity: list[Receipt]
    ) -> Claim:
        """Have the claim issuer's key sign the claim; the same operation always gets the same signature."""
        platform = platform_on(input.chain_id)
        identity = str(platform.view.read(platform.identity_factory, "getIdentity", input.wallet))
        _require_management(platform, identity)
        data = claim_data(input.kyc, str(operation.run_id))
        digest = claim_digest(identity, platform.claim_topic, data)
        signer = find_key(platform.claim_signer_key).address
        signature = sign_message(signer, digest, idempotency_key=operation.key)
        arguments = (identity, platform.claim_topic, signature, data)
        # Asked beforehand: addClaim would revert for the same reason, after it was paid for.
        if not platform.view.read(platform.claim_issuer, "isClaimValid", *arguments):
            raise PermanentError(
                "CLAIM_NOT_VALID", f"the claim issuer {platform.claim_issuer.address} refuses the claim"
            )
        return Claim(
            identity=identity,
            topic=platform.claim_topic,
            data="0x" + data.hex(),
            signature="0x" + signature.hex(),
        )

    @step(retry=PATIENT)
    def register(self, input: RegisterInvestorInput, sign_claim: Claim) -> list[TransactionRequest]:
        """Add the claim to the identity, and the wallet to the registry; neither needs the other to come first."""
        platform = platform_on(input.chain_id)
        return [
            *_claim_requests(platform, sign_claim),
            *_registry_requests(platform, input, sign_claim.identity),
        ]

    @step(retry=PATIENT)
    def confirm_registration(
        self, input: RegisterInvestorInput, sign_claim: Claim, register: list[Receipt]
    ) -> RegisteredInvestor:
        """Read from the chain what every token will see."""
        platform = platform_on(input.chain_id)
        registry = platform.identity_registry
        verified, identity, country = platform.view.read_many(
            [(registry, name, (input.wallet,)) for name in ("isVerified", "identity", "investorCountry")]
        )
        if not verified or identity != sign_claim.identity or country != input.country:
            found = f"verified {verified}, identity {identity}, country {country}"
            raise PermanentError("REGISTRATION_NOT_SHOWN", f"the registry shows for {input.wallet}: {found}")
        return RegisteredInvestor(
            chain_id=input.chain_id, wallet=input.wallet, identity=identity, country=input.country
        )

    @step(effect="transactional")
    def record_investor(
        self, operation: Operation, confirm_registration: RegisteredInvestor
    ) -> RegisteredInvestor:
        """Keep it for people to find."""
        seen = confirm_registration
        Investor.objects.update_or_create(
            chain_id=seen.chain_id,
            wallet=seen.wallet,
            defaults={
                "identity": seen.identity,
                "country": seen.country,
                "run_id": operation.run_id,
                "updated_at": Now(),
            },
        )
        return seen


def claim_data(kyc: KycRecord, run_id: str) -> bytes:
    """Return the digest of the record that goes on the chain.

    The run's id makes each registration's claim another one: a revoked signature is revoked for ever, so a claim with
    the same content, signed anew after a revocation, would be dead at birth.
    """
    return keccak(text=json.dumps({**kyc.model_dump(mode="json"), "run": run_id}, sort_keys=True))


def claim_digest(identity: str, topic: int, data: bytes) -> bytes:
    """Return what a claim's signature covers. Source: OnchainID, ERC-735; abi.encode, not packed."""
    return keccak(encode(["address", "uint256", "bytes"], [identity, topic, data]))


def claim_id(issuer: str, topic: int) -> bytes:
    """Return under what an identity keeps a claim: one per issuer and topic."""
    return keccak(encode(["address", "uint256"], [issuer, topic]))


def _require_management(platform: OnChain, identity: str) -> None:
    key = key_hash(find_key(platform.deployer_key).address)
    if not platform.view.read(contract("Identity", identity), "keyHasPurpose", key, MANAGEMENT_PURPOSE):
        raise PermanentError(
            "IDENTITY_NOT_MANAGED",
            f"the platform's key may not add claims to {identity}: it is not a key of it",
        )


def _claim_requests(platform: OnChain, claim: Claim) -> list[TransactionRequest]:
    identity, issuer = contract("Identity", claim.identity), platform.claim_issuer.address
    kept = platform.view.read(identity, "getClaim", claim_id(str(issuer), claim.topic))
    if kept[3] == bytes.fromhex(claim.signature[2:]):
        return []
    arguments = (claim.topic, ECDSA, issuer, claim.signature, claim.data, "")
    return [
        platform.deployer.call(
            identity, "addClaim", *arguments, label=f"add the KYC claim to {claim.identity}"
        )
    ]


def _registry_requests(
    platform: OnChain, input: RegisterInvestorInput, identity: str
) -> list[TransactionRequest]:
    registry: Contract = platform.identity_registry
    known, stored, country = platform.view.read_many(
        [(registry, name, (input.wallet,)) for name in ("contains", "identity", "investorCountry")]
    )
    send, wallet = platform.deployer.call, input.wallet
    if not known:
        return [
            send(registry, "registerIdentity", wallet, identity, input.country, label=f"register {wallet}")
        ]
    requests = []
    if stored != identity:
        requests.append(send(registry, "updateIdentity", wallet, identity))
    if country != input.country:
        requests.append(send(registry, "updateCountry", wallet, input.country))
    return requests
