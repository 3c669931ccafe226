"""Hand everything that a key may do over to a new key with another address: the workflow `key.rotate`.

Upholds: the old key signs until the chain shows that the new one has every role, and is retired only when it shows that
the old one has none. Until the owners change, nothing is taken from the old key; what fails by then leaves it at work,
with its alias. Every step asks the chain what is missing and sends only that, so it may be repeated after any crash.
"""

from collections.abc import Iterator
from uuid import UUID

from pydantic import Field

from dalp.assets.calls import PATIENT
from dalp.assets.claims import claims_to_renew
from dalp.assets.lanes import close_lanes, open_lanes, require_nothing_under_way, require_settled
from dalp.assets.models import Platform
from dalp.assets.platforms import OnChain, platform_on
from dalp.assets.roles import Role, given, holding, roles_of, taken
from dalp.assets.values import Address, Amount, Input, Output
from keyguard import succession
from keyguard.models import Key
from signer import Lane, Receipt, TransactionRequest
from workflows import Operation, PermanentError, Retry, StepFailure, TransientError, Workflow, step

# For what other work must end first: about eight hours.
VERY_PATIENT = Retry(attempts=500, first=1, factor=2, cap=60)
# What fails in these comes after the new key has everything: the old one only has more than it should.
AFTER_THE_HAND_OVER = ("renew_claims", "take_roles", "confirm_taken", "retire_old_key")


class RotateKeyInput(Input):
    """Which key, why, and who says so."""

    key_id: UUID
    reason: str = Field(min_length=1, max_length=400)
    actor: str = Field(min_length=1, max_length=150)
    backend: str = Field(
        "", max_length=20, description="where the new key lives; empty: where the old one does"
    )
    fund_wei: Amount | None = Field(
        None, description="sent from the old address to the new, on each of its chains"
    )


class Rotation(Output):
    """Which key takes over from which, and on which chains."""

    alias: str
    old: Address
    new: Address
    new_key_id: UUID
    chains: list[int]
    platforms: list[int]  # the chains among them on which there are contracts of ours


class ChainRoles(Output):
    """What the old key may do on a chain."""

    chain_id: int
    roles: list[Role]


class RotatedKey(Output):
    alias: str
    old: Address
    new: Address
    new_key_id: UUID
    roles: int


class RotateKey(Workflow[RotateKeyInput, RotatedKey]):
    """A successor, its roles, the alias, the owners, the old roles' end, and the old key's."""

    class Meta:
        name, version, queue = "key.rotate", 1, "assets"
        key = "key:{input.key_id}"

    @step(undo=False, retry=PATIENT)  # it stays, and the next run goes on with it
    def make_successor(self, input: RotateKeyInput) -> Rotation:
        """Make the key that takes over, unless it is there."""
        old = _key(input.key_id)
        new = succession.make_successor(old, input.actor, input.reason, input.backend)
        alias = new.alias if succession.has_alias(old, new) else old.alias
        platforms = _platforms_of(old, alias)
        used = Lane.objects.filter(address=old.address).values_list("chain_id", flat=True)
        return Rotation(
            alias=alias,
            old=old.address,
            new=new.address,
            new_key_id=new.pk,
            chains=sorted({*platforms, *used}),
            platforms=platforms,
        )

    @step(when=lambda input: input.fund_wei is not None, undo=False, retry=PATIENT)
    def fund_successor(self, input: RotateKeyInput, make_successor: Rotation) -> list[TransactionRequest]:
        """Send the new address what it pays for its transactions with."""
        return [
            TransactionRequest(
                chain_id=chain_id,
                sender=make_successor.old,
                to=make_successor.new,
                value=int(input.fund_wei or 0),
                label=f"fund the key that takes over from {make_successor.alias}",
            )
            for chain_id in make_successor.chains
        ]

    @step(retry=PATIENT)
    def find_roles(self, make_successor: Rotation) -> list[ChainRoles]:
        """Read from the chains what the old key may do."""
        found = _roles(make_successor, make_successor.old)
        return [ChainRoles(chain_id=platform.chain_id, roles=roles) for platform, roles in found]

    @step(undo=False, retry=PATIENT)  # both keys having a role harms nobody
    def give_roles(self, make_successor: Rotation) -> list[TransactionRequest]:
        """Give the new key every role that two may have."""
        return _to_give(make_successor, owners=False)

    @step(retry=PATIENT)
    def confirm_given(self, make_successor: Rotation, give_roles: list[Receipt]) -> int:
        """Read from the chains that the new key has them."""
        return _require_given(make_successor, owners=False)

    @step(effect="transactional", retry=VERY_PATIENT)
    def hand_alias_over(
        self, input: RotateKeyInput, operation: Operation, make_successor: Rotation, confirm_given: int
    ) -> None:
        """New work goes to the new key from here on. It waits there until the owners have changed."""
        old, new = _pair(input, make_successor)
        if succession.has_alias(old, new):
            return
        require_nothing_under_way(make_successor.platforms)
        close_lanes(make_successor.chains, new.address, _name(operation), f"{old.alias} is being handed over")
        succession.hand_alias_over(old, new, _actor(input, operation), input.reason)

    @hand_alias_over.undo(effect="transactional")
    def give_alias_back(
        self, input: RotateKeyInput, operation: Operation, make_successor: Rotation, failure: StepFailure
    ) -> None:
        """The old key goes on as before."""
        if failure.step in AFTER_THE_HAND_OVER:
            return
        old, new = _pair(input, make_successor)
        succession.give_alias_back(old, new, _actor(input, operation), f"{failure.code}: {failure.message}")
        open_lanes(make_successor.chains, new.address, _name(operation), "the hand-over was given up")

    @step(retry=PATIENT)
    def hand_owners_over(self, make_successor: Rotation, hand_alias_over: None) -> list[TransactionRequest]:
        """Make the new key the owner, after what the old address was asked for before: its lane keeps the order."""
        return [*_to_give(make_successor, owners=False), *_to_give(make_successor, owners=True)]

    @hand_owners_over.undo(retry=PATIENT)
    def give_owners_back(
        self,
        operation: Operation,
        make_successor: Rotation,
        find_roles: list[ChainRoles],
        failure: StepFailure,
    ) -> list[TransactionRequest]:
        """Make the old key the owner again of what it owned."""
        if failure.step in AFTER_THE_HAND_OVER:
            return []
        open_lanes(make_successor.chains, make_successor.new, _name(operation), "the owners are given back")
        return [
            given(platform, role, make_successor.old, make_successor.new)
            for platform, roles in _listed(find_roles)
            for role in holding(platform.view, roles, make_successor.new)
            if role.kind == "owner"
        ]

    @step(retry=PATIENT)
    def confirm_owners(
        self,
        operation: Operation,
        make_successor: Rotation,
        find_roles: list[ChainRoles],
        hand_owners_over: list[Receipt],
    ) -> int:
        """Read from the chains that the new key has every role, and let it work."""
        _require_given(make_successor, owners=True)
        for platform, roles in _listed(find_roles):
            has = holding(platform.view, roles, make_successor.new)
            _require_none(platform, [role for role in roles if role not in has], "the new key has not")
        open_lanes(make_successor.chains, make_successor.new, _name(operation), "the new key owns everything")
        return sum(len(each.roles) for each in find_roles)

    @step(undo=False, retry=PATIENT)
    def renew_claims(
        self, operation: Operation, make_successor: Rotation, confirm_owners: int
    ) -> list[TransactionRequest]:
        """Have the new key sign what the old one has claimed about investors: its word ends with its right."""
        return _claims(operation, make_successor)

    @step(undo=False, retry=PATIENT)
    def take_roles(
        self, operation: Operation, make_successor: Rotation, renew_claims: list[Receipt]
    ) -> list[TransactionRequest]:
        """Take from the old key what it has still. The new key does it: so it is seen to work."""
        if _claims(operation, make_successor):
            raise TransientError("CLAIMS_NOT_SHOWN", "the chain doesn't show the new key's claims yet")
        return [
            taken(platform, role, make_successor.old, make_successor.new)
            for platform, roles in _roles(make_successor, make_successor.old)
            for role in roles
        ]

    @step(undo=False, retry=PATIENT)
    def confirm_taken(self, make_successor: Rotation, take_roles: list[Receipt]) -> None:
        """Read from the chains that the old key has no role any more."""
        for platform, roles in _roles(make_successor, make_successor.old):
            _require_none(platform, roles, "the old key has still")

    @step(effect="transactional", undo=False, retry=VERY_PATIENT)
    def retire_old_key(
        self,
        input: RotateKeyInput,
        operation: Operation,
        make_successor: Rotation,
        confirm_owners: int,
        confirm_taken: None,
    ) -> RotatedKey:
        """The old key signs nothing any more, once all that it has signed is settled."""
        require_settled(make_successor.old)
        old, new = _pair(input, make_successor)
        succession.retire_replaced(old, new, _actor(input, operation), input.reason)
        facts = make_successor.model_dump(include={"alias", "old", "new", "new_key_id"})
        return RotatedKey(**facts, roles=confirm_owners)


def _to_give(rotation: Rotation, *, owners: bool) -> list[TransactionRequest]:
    """Return what gives the new key what it lacks of the old one's roles."""
    return [
        given(platform, role, rotation.new, rotation.old)
        for platform, roles in _lacking(rotation, owners=owners)
        for role in roles
    ]


def _require_given(rotation: Rotation, *, owners: bool) -> int:
    for platform, roles in _lacking(rotation, owners=owners):
        _require_none(platform, roles, "the new key has not")
    return len(rotation.platforms)


def _lacking(rotation: Rotation, *, owners: bool) -> Iterator[tuple[OnChain, list[Role]]]:
    for platform, roles in _roles(rotation, rotation.old):
        wanted = [role for role in roles if (role.kind == "owner") == owners]
        has = holding(platform.view, wanted, rotation.new)
        yield platform, [role for role in wanted if role not in has]


def _require_none(platform: OnChain, roles: list[Role], what: str) -> None:
    if roles:
        named = ", ".join(str(role) for role in roles[:5])
        raise TransientError(
            "ROLES_NOT_SHOWN", f"on chain {platform.chain_id} {what} {len(roles)} roles: {named}"
        )


def _roles(rotation: Rotation, holder: str) -> Iterator[tuple[OnChain, list[Role]]]:
    for chain_id in rotation.platforms:
        platform = platform_on(chain_id)
        run_id = Platform.objects.values_list("run_id", flat=True).get(chain_id=chain_id)
        yield platform, roles_of(platform, str(run_id), holder)


def _listed(found: list[ChainRoles]) -> Iterator[tuple[OnChain, list[Role]]]:
    for each in found:
        yield platform_on(each.chain_id), each.roles


def _claims(operation: Operation, rotation: Rotation) -> list[TransactionRequest]:
    platforms = [platform_on(chain_id) for chain_id in rotation.platforms]
    return [
        request
        for platform in platforms
        if platform.claim_signer_key == rotation.alias
        for request in claims_to_renew(platform, rotation.new, f"{operation.run_id}:{platform.chain_id}")
    ]


def _platforms_of(old: Key, alias: str) -> list[int]:
    """Return the chains on whose contracts the key may have roles: it is named for one, or has sent something there."""
    used = set(Lane.objects.filter(address=old.address).values_list("chain_id", flat=True))
    named = ("deployer_key", "claim_issuer_key", "claim_signer_key")
    return sorted(
        row.chain_id
        for row in Platform.objects.all()
        if row.chain_id in used or alias in {getattr(row, name) for name in named}
    )


def _pair(input: RotateKeyInput, rotation: Rotation) -> tuple[Key, Key]:
    return _key(input.key_id), _key(rotation.new_key_id)


def _key(key_id: UUID) -> Key:
    key = Key.objects.filter(pk=key_id).first()
    if key is None:
        raise PermanentError("KEY_NOT_FOUND", f"there is no key {key_id}")
    return key


def _actor(input: RotateKeyInput, operation: Operation) -> str:
    return f"{input.actor[:100]}, {_name(operation)}"


def _name(operation: Operation) -> str:
    return f"run {operation.run_id}"
