"""Groups whose members approve: which they are, and that who is in one changes by `keyguard.policies.memberships` alone.

Upholds: Django's admin, code and SQL that would change such a group, or its name, are refused, whoever it is; here with
words, in the database by triggers on what `note` has written down.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import connections, transaction
from django.db.models.signals import m2m_changed, post_migrate, pre_delete, pre_save

from keyguard.errors import GroupGuardedError
from keyguard.policies.deciding import active_policy, rules_of
from keyguard.policies.models import GuardedGroup
from keyguard.policies.rules import Effect

Membership = User.groups.through


@dataclass(frozen=True, slots=True)
class Duty:
    """What a group is asked to approve, and by how many of its members."""

    group: str
    approvals: int
    what: str


def duties() -> list[Duty]:
    """Return what groups are asked for: by the settings, and by each rule of the policy in force."""
    found = [
        Duty(settings.KEYGUARD_POLICY_GROUP, settings.KEYGUARD_POLICY_APPROVALS, "changes of the policy"),
        Duty(settings.KEYGUARD_OPERATIONS_GROUP, settings.KEYGUARD_OPERATIONS_APPROVALS, "acts on keys"),
    ]
    active = active_policy()
    for rule in rules_of(active.pk) if active else ():
        if rule.effect is Effect.REQUIRE_APPROVAL:
            found.append(Duty(rule.group, rule.approvals, f"signatures by the rule {rule.name}"))  # noqa: PERF401
    return [duty for duty in found if duty.group]


def guarded() -> dict[str, int]:
    """Return the groups that approve, each with the most approvals that anything asks it for, one at least."""
    most: dict[str, int] = {}
    for duty in duties():
        most[duty.group] = max(most.get(duty.group, 1), duty.approvals)
    return most


def note() -> None:
    """Write down for the triggers which groups are guarded now. With each policy put in force, and each `migrate`."""
    names = set(guarded())
    with transaction.atomic():
        GuardedGroup.objects.exclude(name__in=names).delete()
        GuardedGroup.objects.bulk_create([GuardedGroup(name=name) for name in names], ignore_conflicts=True)


def guarded_of(person: User) -> set[str]:
    """Return the guarded groups that a person is in."""
    return set(person.groups.filter(name__in=guarded()).values_list("name", flat=True))


def refused(names: Collection[str]) -> GroupGuardedError:
    """Return the error about these groups."""
    return GroupGuardedError(f"who is in {', '.join(sorted(names))} is for its members to say")


def _on_groups_changed(
    instance: User | Group, action: str, reverse: bool, pk_set: set[Any] | None, **_: Any
) -> None:
    if action not in ("pre_add", "pre_remove", "pre_clear") or pk_set == set():
        return
    if isinstance(instance, Group):
        touched = Group.objects.filter(pk=instance.pk)
        if pk_set is None:
            touched = touched.filter(user__isnull=False)
    else:
        touched = instance.groups.all() if pk_set is None else Group.objects.filter(pk__in=pk_set)
    if names := set(touched.values_list("name", flat=True)) & set(guarded()):
        raise refused(names)


def _before_group_is_saved(instance: Group, **_: Any) -> None:
    """A name is what rules go by: with another group under it, other people would approve."""
    before = Group.objects.filter(pk=instance.pk).values_list("name", flat=True).first()
    if before is not None and before != instance.name and (names := {before, instance.name} & set(guarded())):
        raise refused(names)


def _before_group_is_deleted(instance: Group, **_: Any) -> None:
    if instance.name in guarded():
        raise refused({instance.name})


def _before_person_is_deleted(instance: User, **_: Any) -> None:
    if names := guarded_of(instance):
        raise refused(names)


def _after_migrate(using: str, **_: Any) -> None:
    if GuardedGroup._meta.db_table in connections[using].introspection.table_names():
        note()


def connect(app: Any) -> None:
    """Begin to guard. app: keyguard's configuration, after whose migrations the triggers' list is written."""
    m2m_changed.connect(_on_groups_changed, sender=Membership, dispatch_uid="keyguard.guarding")
    pre_save.connect(_before_group_is_saved, sender=Group, dispatch_uid="keyguard.guarding")
    pre_delete.connect(_before_group_is_deleted, sender=Group, dispatch_uid="keyguard.guarding")
    pre_delete.connect(_before_person_is_deleted, sender=User, dispatch_uid="keyguard.guarding")
    post_migrate.connect(_after_migrate, sender=app, dispatch_uid="keyguard.guarding")
