"""Claims that a key has signed, signed anew by the key that takes over: without that they end with the old key's right."""

from collections.abc import Sequence
from typing import Any

from dalp.assets.calls import contract
from dalp.assets.investors import claim_digest, claim_id
from dalp.assets.models import Investor
from dalp.assets.platforms import ECDSA, OnChain
from keyguard import sign_message
from signer import TransactionRequest
from workflows import PermanentError

AT_ONCE = 100


def claims_to_renew(platform: OnChain, signer: str, idempotency_key: str) -> list[TransactionRequest]:
    """Return what replaces every valid claim of the platform's investors by one that `signer` has signed.

    The same idempotency key always gets the same signatures, so what is done is seen. What was revoked stays revoked.
    """
    identities = Investor.objects.filter(chain_id=platform.chain_id).values_list("identity", flat=True)
    unique = sorted(set(identities))
    requests = []
    for start in range(0, len(unique), AT_ONCE):
        part = unique[start : start + AT_ONCE]
        for identity, kept in _valid(platform, part):
            requests += _renewed(platform, identity, kept, signer, idempotency_key)
    return requests


def _valid(platform: OnChain, identities: Sequence[str]) -> list[tuple[str, Any]]:
    issuer, view = platform.claim_issuer, platform.view
    name = claim_id(str(issuer.address), platform.claim_topic)
    kept = view.read_many([(contract("Identity", one), "getClaim", (name,)) for one in identities])
    found = [(one, claim) for one, claim in zip(identities, kept, strict=True) if claim[3]]
    asked = [(issuer, "isClaimValid", (one, claim[0], claim[3], claim[4])) for one, claim in found]
    valid = view.read_many(asked) if asked else []
    return [pair for pair, is_valid in zip(found, valid, strict=True) if is_valid]


def _renewed(
    platform: OnChain, identity: str, kept: Any, signer: str, idempotency_key: str
) -> list[TransactionRequest]:
    topic, _, _, old, data, uri = kept
    signature = sign_message(signer, claim_digest(identity, topic, data), f"{idempotency_key}:{identity}")
    if bytes(old) == bytes(signature):
        return []
    issuer = platform.claim_issuer
    if not platform.view.read(issuer, "isClaimValid", identity, topic, signature, data):
        raise PermanentError(
            "CLAIM_NOT_VALID", f"the claim issuer {issuer.address} refuses the new key's claim"
        )
    arguments = (topic, ECDSA, str(issuer.address), signature, data, uri)
    label = f"renew the claim of {identity}"
    return [platform.deployer.call(contract("Identity", identity), "addClaim", *arguments, label=label)]
