"""The decision about a batch, inside the transaction that intends it: rules, limits, people.

Upholds: whatever is decided is decided on the policy that is in force when the signature is asked for, approved or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from django.db.models import QuerySet

from keyguard.errors import ApprovalPendingError, LimitExceededError, PolicyDeniedError
from keyguard.models import Key
from keyguard.policies import asking, spending
from keyguard.policies.facts import Facts, shown
from keyguard.policies.judging import Need, Verdict, judge
from keyguard.policies.models import Policy
from keyguard.policies.rules import Rule, parse
from keyguard.states import PolicyState, QuestionKind


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to be decided on.

    subject: the same for every signature that serves the same purpose. slot: the same for those of which one at most has
    an effect.
    """

    subject: str
    slot: str
    key: Key
    facts: Facts

    @property
    def content_hash(self) -> str:
        """Return what people's answer is bound to: all but nonce and fees, which may change while they think."""
        facts = self.facts
        parts: list[object] = [facts.what, self.key.pk, facts.chain, facts.to, facts.value, facts.data.hex()]
        parts += [facts.primary_type, repr(facts.domain), repr(facts.message), facts.rest]
        return asking.hash_of("|".join(map(str, parts)))


class UndecidedError(Exception):
    """Carries what must outlive the rolled-back batch: why not, for which request, and whom to ask."""

    def __init__(
        self,
        error: PolicyDeniedError | ApprovalPendingError,
        place: int,
        policy_id: UUID | None,
        verdict: Verdict,
    ) -> None:
        super().__init__(error.code)
        self.error, self.place, self.policy_id, self.verdict = error, place, policy_id, verdict


def active_policy() -> Policy | None:
    """Return the policy in force."""
    return Policy.objects.filter(state=PolicyState.ACTIVE).first()


def active_policy_id() -> UUID | None:
    """Return the id of the policy in force."""
    return active_policies().first()


def active_policies() -> "QuerySet[Policy, UUID]":
    """Return the id of the policy in force, as a query for others to contain."""
    return Policy.objects.filter(state=PolicyState.ACTIVE).values_list("pk", flat=True)


def decide(requests: Sequence[Asked], policy_id: UUID | None) -> None:
    """Return where all of the requests may be signed, or raise UndecidedError about the first that may not.

    policy_id: of the policy in force, read in this transaction. Limits are spent and answers used with its commit.
    """
    rules = rules_of(policy_id) if policy_id and requests else ()
    verdicts = [judge(rules, asked.facts) for asked in requests]
    for place, verdict in enumerate(verdicts):
        if not verdict.allowed:
            words = f"{verdict.rule}: {verdict.why}" if verdict.rule else verdict.why
            raise UndecidedError(PolicyDeniedError(words), place, policy_id, verdict)
    _spend(requests, verdicts, policy_id)
    for place, (asked, verdict) in enumerate(zip(requests, verdicts, strict=True)):
        if verdict.needs and not asking.is_granted(
            asked.subject, asked.content_hash, verdict.needs, policy_id, asked.slot
        ):
            raise UndecidedError(ApprovalPendingError(_people(verdict.needs)), place, policy_id, verdict)


def _spend(requests: Sequence[Asked], verdicts: Sequence[Verdict], policy_id: UUID | None) -> None:
    charges = [
        (spending.purpose(asked.subject, asked.slot), charge)
        for asked, verdict in zip(requests, verdicts, strict=True)
        for charge in verdict.charges
    ]
    try:
        spending.spend(charges)
    except LimitExceededError as error:
        purposes = [spending.purpose(asked.subject, asked.slot) for asked in requests]
        place = purposes.index(error.subject)
        raise UndecidedError(error, place, policy_id, verdicts[place]) from None


def _people(needs: Sequence[Need]) -> str:
    return "; ".join(f"{need.approvals} of {need.group} must approve ({need.rule})" for need in needs)


def ask_people(undecided: UndecidedError, asked: Asked) -> None:
    """Put the question that a batch was rolled back for."""
    assert undecided.policy_id is not None, "without a policy nothing is asked"
    asking.ask(
        QuestionKind.SIGNATURE,
        asked.subject,
        asked.content_hash,
        Policy.objects.get(pk=undecided.policy_id),
        undecided.verdict.needs,
        shown=shown(asked.facts),
        asked_by=asked.facts.caller,
        key=asked.key,
        slot=asked.slot,
    )


@lru_cache(maxsize=16)
def rules_of(policy_id: UUID) -> tuple[Rule, ...]:
    """Return the rules of a version; its text never changes."""
    return parse(Policy.objects.values_list("body", flat=True).get(pk=policy_id))
