"""Who may do what in the contracts that the platform knows: reading it from the chain, giving it and taking it away.

Four kinds of role: a contract's one owner, its agents, an identity's managers (ERC-734) and a claim issuer's signers of
claims. A contract that nobody recorded is not known here.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from dalp.assets.bootstrap import key_hash
from dalp.assets.calls import Sender, View, contract
from dalp.assets.models import Asset, Investor
from dalp.assets.platforms import CLAIM_PURPOSE, ECDSA, MANAGEMENT_PURPOSE, OnChain
from dalp.assets.values import ZERO_ADDRESS, Address, Output
from keyguard import KeyNotFoundError, find_key
from signer import Contract, TransactionRequest
from workflows import PermanentError

AT_ONCE = 100  # questions in one request to a node
PURPOSES = {"manager": MANAGEMENT_PURPOSE, "claims": CLAIM_PURPOSE}

Question = tuple[Contract, str, tuple[Any, ...]]


class Role(Output):
    """A right in one contract."""

    contract: str  # as the artifacts call it
    address: Address
    kind: Literal["owner", "agent", "manager", "claims"]

    def __str__(self) -> str:
        return f"{self.kind} of {self.contract} {self.address}"

    @property
    def target(self) -> Contract:
        return contract(self.contract, self.address)


def roles_of(platform: OnChain, run_id: str, holder: str) -> list[Role]:
    """Return the roles that an address has on the platform's chain, as the chain says now."""
    return holding(platform.view, _known(platform, run_id), holder)


def holding(view: View, roles: Iterable[Role], holder: str) -> list[Role]:
    """Return those of the roles that an address has."""
    asked = list(roles)
    answers = _read(view, [_question(role, holder) for role in asked])
    return [role for role, answer in zip(asked, answers, strict=True) if _says_yes(role, answer, holder)]


def given(platform: OnChain, role: Role, to: str, manager: str) -> TransactionRequest:
    """Return the transaction that gives a role to an address. manager: who has it, of an identity or as its owner."""
    label = f"give {to} the role {role.kind} of {role.contract}"
    if role.kind == "owner":
        return Sender(platform.chain_id, manager).call(role.target, "transferOwnership", to, label=label)
    sender = _who_decides(platform, role, manager)
    if role.kind == "agent":
        return sender.call(role.target, "addAgent", to, label=label)
    arguments = (key_hash(to), PURPOSES[role.kind], ECDSA)
    return sender.call(role.target, "addKey", *arguments, label=label)


def taken(platform: OnChain, role: Role, away_from: str, manager: str) -> TransactionRequest:
    """Return the transaction that takes a role, but for an owner's, away from an address."""
    label = f"take from {away_from} the role {role.kind} of {role.contract}"
    sender = _who_decides(platform, role, manager)
    if role.kind == "agent":
        return sender.call(role.target, "removeAgent", away_from, label=label)
    arguments = (key_hash(away_from), PURPOSES[role.kind])
    return sender.call(role.target, "removeKey", *arguments, label=label)


def _who_decides(platform: OnChain, role: Role, manager: str) -> Sender:
    """Return who gives and takes such a role now. Raises PermanentError where that is no key of ours."""
    name = manager
    if role.kind == "claims":
        name = platform.claim_issuer_key
    if role.kind == "agent":
        name = platform.view.read(role.target, "owner")
    try:
        return Sender(platform.chain_id, find_key(name).address)
    except KeyNotFoundError:
        raise PermanentError(
            "ROLE_NOT_OURS", f"{name}, who decides about the {role}, is no key of this platform"
        ) from None


def _known(platform: OnChain, run_id: str) -> Iterator[Role]:
    """Give every role that somebody could have in the contracts that are recorded for the chain."""
    view, at = platform.view, platform.addresses
    yield Role(contract="TREXImplementationAuthority", address=at.implementation_authority, kind="owner")
    yield Role(contract="TREXFactory", address=at.token_factory, kind="owner")
    yield Role(contract="IdFactory", address=at.identity_factory, kind="owner")
    identities = view.read(platform.identity_factory, "implementationAuthority")
    yield Role(contract="ImplementationAuthority", address=identities, kind="owner")
    for kind in ("owner", "agent"):
        yield Role(contract="IdentityRegistryStorage", address=at.identity_storage, kind=kind)
    for kind in ("manager", "claims"):
        yield Role(contract="ClaimIssuer", address=at.claim_issuer, kind=kind)
    reference = view.read(platform.token_factory, "getToken", run_id)
    tokens = list(Asset.objects.filter(chain_id=platform.chain_id).values_list("token", flat=True))
    yield from _of_suites(view, [reference, *tokens], at.identity_registry)
    known = Investor.objects.filter(chain_id=platform.chain_id).values_list("identity", flat=True)
    yield from (Role(contract="Identity", address=one, kind="manager") for one in sorted(set(known)))


def _of_suites(view: View, tokens: Iterable[str], registry: str) -> Iterator[Role]:
    """Give the roles in these tokens and in all that belongs to them, and in the shared registry."""
    suites = [contract("Token", token) for token in tokens if token != ZERO_ADDRESS]
    names = ("identityRegistry", "compliance", "onchainID")
    read = _read(view, [(token, name, ()) for token in suites for name in names])
    registries = {registry, *read[0::3]}
    for token in suites:
        yield from _both("Token", str(token.address))
    for address in read[1::3]:
        yield Role(contract="ModularCompliance", address=address, kind="owner")
    for address in read[2::3]:
        yield Role(contract="Identity", address=address, kind="manager")
    parts = {"topicsRegistry": "ClaimTopicsRegistry", "issuersRegistry": "TrustedIssuersRegistry"}
    for address in sorted(registries):
        yield from _both("IdentityRegistry", address)
    asked = [(contract("IdentityRegistry", one), part, ()) for one in sorted(registries) for part in parts]
    for (_, part, _), address in zip(asked, _read(view, asked), strict=True):
        yield Role(contract=parts[part], address=address, kind="owner")


def _both(name: str, address: str) -> Iterator[Role]:
    yield Role(contract=name, address=address, kind="owner")
    yield Role(contract=name, address=address, kind="agent")


def _question(role: Role, holder: str) -> Question:
    if role.kind == "owner":
        return role.target, "owner", ()
    if role.kind == "agent":
        return role.target, "isAgent", (holder,)
    # Not keyHasPurpose: that says yes to every purpose of a manager.
    return role.target, "getKeyPurposes", (key_hash(holder),)


def _says_yes(role: Role, answer: Any, holder: str) -> bool:
    if role.kind == "owner":
        return bool(answer == holder)
    return bool(answer) if role.kind == "agent" else PURPOSES[role.kind] in answer


def _read(view: View, questions: list[Question]) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(questions), AT_ONCE):
        answers += view.read_many(questions[start : start + AT_ONCE])
    return answers
