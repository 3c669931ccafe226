"""Who may approve: people come into a guarded group, and leave it.

Upholds: whoever comes in was approved by so many members as the group's yes is worth, neither the person concerned nor
whoever asked among them; leaving takes one person, and never leaves too few. Each act is kept, with who and why.
"""

import structlog
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import QuerySet

from keyguard.audit.rows import note_row
from keyguard.errors import MembershipInvalidError
from keyguard.policies import asking, guarding, publishing
from keyguard.policies.deciding import active_policy
from keyguard.policies.judging import Need
from keyguard.policies.models import MembershipAct, Question
from keyguard.states import MembershipVerb, QuestionKind

log = structlog.get_logger("keyguard")


def act(group: Group, person: User, verb: MembershipVerb, actor: str, reason: str) -> Question | None:
    """Remove somebody at once, or ask the members whether somebody may join, and return the question.

    Raises MembershipInvalidError: nothing was changed then.
    """
    with transaction.atomic():
        needed = _locked(group, reason)
        _require_fits(group, person, verb)
        if verb == MembershipVerb.ADD:
            return _ask(group, person, needed, actor, reason)
        left = _active(group).exclude(pk=person.pk).count()
        if person.is_active and left < needed:
            raise MembershipInvalidError(
                f"{group} would have {left} active members, and {needed} must approve: add somebody first. "
                "If it is urgent, deactivate the person: their answers do not count then"
            )
        _carry_out(group, person, verb, actor, reason)
        return None


def add_first(group: Group, person: User, actor: str, reason: str) -> None:
    """Fill a group that has too few members to approve anything. Raises MembershipInvalidError once it has enough."""
    with transaction.atomic():
        needed = _locked(group, reason)
        _require_fits(group, person, MembershipVerb.ADD)
        if (there := _active(group).count()) >= needed:
            raise MembershipInvalidError(
                f"{group} has {there} active members, who are enough: they approve who joins them"
            )
        _carry_out(group, person, MembershipVerb.ADD, actor, reason)


def carry_out_approved(question: Question, actor: str) -> None:
    """Do what people have approved, in the transaction of the last yes."""
    shown = question.shown
    group = Group.objects.get(pk=shown["group_id"])
    person = User.objects.get(pk=shown["person_id"])
    if _locked(group, shown["reason"]) > question.needs[0]["approvals"]:
        raise MembershipInvalidError(f"{group} must approve more by now: ask for it anew")
    verb = MembershipVerb(shown["verb"])
    _require_fits(group, person, verb)
    _carry_out(group, person, verb, f"{question.asked_by}, {actor}", shown["reason"])


def _locked(group: Group, reason: str) -> int:
    """Return how many approvals the group's yes takes, and let nobody else change it meanwhile."""
    if not reason.strip():
        raise MembershipInvalidError("say why: whoever reads it later will want to know")
    needed = guarding.guarded().get(group.name)
    if needed is None:
        raise MembershipInvalidError(f"{group} approves nothing: change it on the person's page")
    Group.objects.select_for_update().get(pk=group.pk)
    return needed


def _require_fits(group: Group, person: User, verb: MembershipVerb) -> None:
    is_in = group.user_set.filter(pk=person.pk).exists()
    if verb == MembershipVerb.ADD and is_in:
        raise MembershipInvalidError(f"{person} is in {group} already")
    if verb == MembershipVerb.ADD and not person.is_active:
        raise MembershipInvalidError(f"{person} is deactivated")
    if verb == MembershipVerb.REMOVE and not is_in:
        raise MembershipInvalidError(f"{person} is not in {group}")


def _ask(group: Group, person: User, needed: int, actor: str, reason: str) -> Question:
    policy = active_policy()
    if policy is None:
        raise MembershipInvalidError("no policy is in force: put one in force first")
    able = _active(group).exclude(username=actor).count()
    if able < needed:
        raise MembershipInvalidError(
            f"{needed} members of {group} must approve it, and {able} may, as whoever asks does not: "
            "somebody else asks for it, or manage.py add_approver --first while there are too few"
        )
    verb = MembershipVerb.ADD
    shown = {
        "verb": str(verb),
        "group": group.name,
        "group_id": group.pk,
        "person": person.get_username(),
        "person_id": person.pk,
        "full_name": person.get_full_name(),
        "reason": reason,
    }
    # With how often it was done before: an approval of then is not for now.
    done = MembershipAct.objects.filter(group=group, person=person).count()
    return asking.ask(
        QuestionKind.MEMBERSHIP,
        f"group {group.name}: {verb.label} {person.get_username()}"[:255],
        asking.hash_of(f"{verb}|{group.pk}|{group.name}|{person.pk}|{person.get_username()}|{done}"),
        policy,
        [Need("members say who joins them", needed, group.name)],
        shown=shown,
        asked_by=actor,
    )


def _active(group: Group) -> "QuerySet[User]":
    return group.user_set.filter(is_active=True)


def _carry_out(group: Group, person: User, verb: MembershipVerb, actor: str, reason: str) -> None:
    """Change it. The act comes first: the triggers look for it. Not by `groups.add`, which is refused to everybody."""
    with transaction.atomic():
        done = MembershipAct.objects.create(
            group=group, person=person, verb=verb, actor=actor[:320], reason=reason[:500]
        )
        name = person.get_username()
        note_row("membership_changed", done, group=group.name, person=name, verb=str(verb), actor=actor)
        rows = guarding.Membership.objects
        if verb == MembershipVerb.ADD:
            rows.create(group=group, user=person)
        else:
            rows.filter(group=group, user=person).delete()
    log.warning("membership_changed", group=group.name, person=name, verb=str(verb), actor=actor)


publishing.EXECUTORS[QuestionKind.MEMBERSHIP] = carry_out_approved
