"""Who is in a group that approves: its members say who joins it, and nothing goes around them."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.db.models import ProtectedError

from keyguard.errors import GroupGuardedError, MembershipInvalidError, VoteInvalidError
from keyguard.policies import guarding, memberships, publishing
from keyguard.policies.models import GuardedGroup, MembershipAct, Question
from keyguard.states import MembershipVerb, QuestionState
from tests.integration.keyguard.people import PASSWORD, at, browser, someone, text_of
from tests.integration.keyguard.policies import ALLOW_ALL, ask, person, put_in_force

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

ADD, REMOVE = MembershipVerb.ADD, MembershipVerb.REMOVE


@pytest.fixture
def treasury(db: None) -> Group:
    """A group of ann, bob and cat, of whom two must approve."""
    put_in_force(*ALLOW_ALL, ask(2, "treasury"))
    for name in ("ann", "bob", "cat"):
        person(name, "treasury")
    return Group.objects.get(name="treasury")


@pytest.fixture
def eve(db: None) -> User:
    return person("eve")


def members(group: Group) -> set[str]:
    return set(group.user_set.values_list("username", flat=True))


def say(question: Question, name: str, approves: bool = True) -> Question:
    voter = User.objects.get(username=name)
    return publishing.vote(question, voter, approves, question.content_hash, "I know them")


def asked(group: Group, who: User, by: str = "dora") -> Question:
    question = memberships.act(group, who, ADD, by, "joins the team")
    assert question is not None
    return question


@pytest.mark.case("K46")
@pytest.mark.sqlite_too
def test_whoever_is_added_does_not_approve_it_and_is_in_with_the_last_yes_of_the_others(
    treasury: Group, eve: User
) -> None:
    question = asked(treasury, eve, by="ann")
    for name, words in [("eve", "whom it is about does not answer"), ("ann", "whoever asks does not answer")]:
        with pytest.raises(VoteInvalidError, match=words):
            say(question, name)
        assert words in publishing.may_vote(question, User.objects.get(username=name))
    assert say(question, "bob").state == QuestionState.OPEN
    assert "eve" not in members(treasury)
    assert say(question, "cat").state == QuestionState.GRANTED
    assert members(treasury) == {"ann", "bob", "cat", "eve"}
    act = MembershipAct.objects.filter(person=eve).get()
    assert (act.verb, act.actor, act.reason) == ("ADD", "ann, cat", "joins the team")


@pytest.mark.case("K46")
def test_a_member_of_another_approving_group_is_no_member_of_this_one(treasury: Group, eve: User) -> None:
    put_in_force(*ALLOW_ALL, ask(2, "treasury"), {**ask(1, "front"), "name": "front"})
    person("eve", "front")
    question = asked(treasury, eve)
    with pytest.raises(VoteInvalidError):
        say(question, "eve")
    person("finn", "front")
    with pytest.raises(VoteInvalidError, match="only members of treasury"):
        say(question, "finn")


@pytest.mark.case("K46")
def test_yes_of_a_member_who_was_deactivated_or_removed_since_does_not_add_anybody(
    treasury: Group, eve: User
) -> None:
    question = asked(treasury, eve)
    say(question, "ann")
    User.objects.filter(username="ann").update(is_active=False)
    assert say(question, "bob").state == QuestionState.OPEN
    assert say(question, "cat").state == QuestionState.GRANTED
    assert "eve" in members(treasury)


@pytest.mark.case("K46")
def test_one_no_leaves_the_group_as_it_was(treasury: Group, eve: User) -> None:
    assert say(asked(treasury, eve), "bob", approves=False).state == QuestionState.REFUSED
    assert "eve" not in members(treasury)


@pytest.mark.case("K46")
def test_an_approval_of_then_brings_nobody_back_who_was_removed_since(treasury: Group, eve: User) -> None:
    first = asked(treasury, eve)
    say(first, "ann")
    say(first, "bob")
    memberships.act(treasury, eve, REMOVE, "dora", "left the team")
    again = asked(treasury, eve)
    assert again.pk != first.pk
    assert again.votes.count() == 0
    assert "eve" not in members(treasury)


@pytest.mark.case("K46")
def test_an_approval_is_worth_what_the_group_must_say_when_it_is_used(treasury: Group, eve: User) -> None:
    question = asked(treasury, eve)
    say(question, "ann")
    put_in_force(*ALLOW_ALL, ask(3, "treasury"))
    with pytest.raises(MembershipInvalidError, match="must approve more by now"):
        say(question, "bob")
    assert "eve" not in members(treasury)
    question.refresh_from_db()
    assert question.votes.count() == 1, "a vote that did nothing is not kept"


AROUND: dict[str, Callable[[Group, User], Any]] = {
    "groups.add": lambda group, user: user.groups.add(group),
    "groups.set": lambda group, user: user.groups.set([group]),
    "user_set.add": lambda group, user: group.user_set.add(user),
    "user_set.remove": lambda group, user: group.user_set.remove(User.objects.get(username="ann")),
    "user_set.clear": lambda group, user: group.user_set.clear(),
    "groups.clear": lambda group, user: User.objects.get(username="ann").groups.clear(),
    "rename the group": lambda group, user: Group(pk=group.pk, name="old").save(),
}


@pytest.mark.case("K46")
@pytest.mark.sqlite_too
@pytest.mark.parametrize("way", AROUND)
def test_django_changes_no_group_that_approves_for_superusers_neither(
    treasury: Group, eve: User, way: str
) -> None:
    User.objects.filter(pk=eve.pk).update(is_superuser=True)
    words = "who is in treasury is for its members to say"
    with pytest.raises(GroupGuardedError, match=words), transaction.atomic():
        AROUND[way](treasury, User.objects.get(pk=eve.pk))
    assert members(Group.objects.get(name="treasury")) == {"ann", "bob", "cat"}


@pytest.mark.case("K46")
@pytest.mark.sqlite_too
def test_neither_people_who_approve_nor_their_group_are_deleted(eve: User) -> None:
    ann, early = User.objects.create(username="ann"), Group.objects.create(name="treasury")
    ann.groups.add(early)
    put_in_force(*ALLOW_ALL, ask(1, "treasury"))
    for row in (ann, early):
        with pytest.raises(GroupGuardedError), transaction.atomic():
            row.delete()
    person("bob", "treasury")
    for row in (User.objects.get(username="bob"), early):
        with pytest.raises((ProtectedError, GroupGuardedError)), transaction.atomic():
            row.delete()
    assert members(early) == {"ann", "bob"}


@pytest.mark.case("K46")
@pytest.mark.sqlite_too
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO auth_user_groups (user_id, group_id) VALUES ({eve}, {treasury})",
        "DELETE FROM auth_user_groups WHERE user_id = {ann}",
        "UPDATE auth_user_groups SET user_id = {eve} WHERE user_id = {ann}",
        "UPDATE auth_user_groups SET group_id = {treasury} WHERE group_id = {other}",
        "UPDATE auth_group SET name = 'old' WHERE id = {treasury}",
        "UPDATE auth_group SET name = 'treasury' WHERE id = {other}",
        "DELETE FROM auth_group WHERE id = {treasury}",
        "UPDATE keyguard_membershipact SET person_id = {eve}",
        "DELETE FROM keyguard_membershipact",
    ],
)
def test_sql_changes_no_group_that_approves(treasury: Group, eve: User, statement: str) -> None:
    other = Group.objects.create(name="other")
    eve.groups.add(other)
    ids = {"eve": eve.pk, "treasury": treasury.pk, "other": other.pk}
    ids["ann"] = User.objects.get(username="ann").pk
    with pytest.raises(DatabaseError, match="keyguard"), transaction.atomic():
        connection.cursor().execute(statement.format(**ids))
    assert members(treasury) == {"ann", "bob", "cat"}


@pytest.mark.case("K46")
def test_querysets_go_around_django_and_not_around_the_database(treasury: Group, eve: User) -> None:
    rows = guarding.Membership.objects
    with pytest.raises(DatabaseError, match="say who is in it"), transaction.atomic():
        rows.bulk_create([guarding.Membership(group=treasury, user=eve)])
    with pytest.raises(DatabaseError, match="say who is in it"), transaction.atomic():
        rows.filter(group=treasury).update(user=eve)
    memberships.act(treasury, User.objects.get(username="ann"), REMOVE, "dora", "left")
    with pytest.raises(DatabaseError, match="say who is in it"), transaction.atomic():
        rows.create(group=treasury, user=User.objects.get(username="ann"))


def test_groups_that_approve_nothing_are_changed_as_ever(treasury: Group, eve: User) -> None:
    readers = Group.objects.create(name="readers")
    eve.groups.add(readers)
    eve.groups.set([])
    readers.user_set.set([eve])
    readers.name = "viewers"
    readers.save()
    with pytest.raises(MembershipInvalidError, match="approves nothing"):
        memberships.act(readers, eve, REMOVE, "dora", "why")
    readers.delete()


@pytest.mark.case("K46")
def test_policies_and_settings_name_what_is_guarded(treasury: Group, settings: Any) -> None:
    settings.KEYGUARD_POLICY_GROUP, settings.KEYGUARD_POLICY_APPROVALS = "policy", 3
    settings.KEYGUARD_OPERATIONS_GROUP, settings.KEYGUARD_OPERATIONS_APPROVALS = "treasury", 1
    assert guarding.guarded() == {"policy": 3, "treasury": 2}
    call_command("migrate", "keyguard", verbosity=0)
    assert set(GuardedGroup.objects.values_list("name", flat=True)) == {"policy", "treasury"}
    put_in_force(*ALLOW_ALL)
    settings.KEYGUARD_OPERATIONS_GROUP = ""
    guarding.note()
    assert set(GuardedGroup.objects.values_list("name", flat=True)) == {"policy"}
    person("eve").groups.add(treasury)


@pytest.mark.case("K46")
def test_one_person_removes_a_member_unless_too_few_would_be_left(treasury: Group) -> None:
    ann, bob = (User.objects.get(username=name) for name in ("ann", "bob"))
    assert memberships.act(treasury, ann, REMOVE, "dora", "left the team") is None
    assert members(treasury) == {"bob", "cat"}
    with pytest.raises(MembershipInvalidError, match="1 active members, and 2 must approve"):
        memberships.act(treasury, bob, REMOVE, "dora", "left the team")
    User.objects.filter(pk=bob.pk).update(is_active=False)
    bob.refresh_from_db()
    assert memberships.act(treasury, bob, REMOVE, "dora", "left the team") is None, "counted no more anyway"
    with pytest.raises(MembershipInvalidError, match="is not in"):
        memberships.act(treasury, bob, REMOVE, "dora", "left the team")


def test_what_could_never_be_approved_is_not_asked(treasury: Group, eve: User) -> None:
    memberships.act(treasury, User.objects.get(username="cat"), REMOVE, "dora", "left")
    with pytest.raises(MembershipInvalidError, match="2 members of treasury must approve it, and 1 may"):
        memberships.act(treasury, eve, ADD, "ann", "joins")
    with pytest.raises(MembershipInvalidError, match="say why"):
        memberships.act(treasury, eve, ADD, "dora", " ")
    with pytest.raises(MembershipInvalidError, match="already"):
        memberships.act(treasury, User.objects.get(username="ann"), ADD, "dora", "joins")
    User.objects.filter(pk=eve.pk).update(is_active=False)
    eve.refresh_from_db()
    with pytest.raises(MembershipInvalidError, match="deactivated"):
        memberships.act(treasury, eve, ADD, "dora", "joins")
    assert not Question.objects.exists()


@pytest.mark.case("K46")
def test_command_fills_a_group_until_it_has_enough_members_and_not_further(db: None) -> None:
    put_in_force(*ALLOW_ALL, ask(2, "treasury"))
    for name in ("ann", "bob", "eve"):
        person(name)
    out = StringIO()
    for name in ("ann", "bob"):
        call_command("add_approver", "treasury", name, "--first", "--reason=begins", stdout=out)
    assert "bob is in treasury, which has 2 active members now." in out.getvalue()
    with pytest.raises(CommandError, match="2 active members, who are enough"):
        call_command("add_approver", "treasury", "eve", "--first", "--reason=begins")
    with pytest.raises(CommandError, match="other approves nothing"):
        call_command("add_approver", "other", "eve", "--first", "--reason=begins")
    assert not Group.objects.filter(name="other").exists()
    with pytest.raises(CommandError, match="no person zoe"):
        call_command("add_approver", "treasury", "zoe", "--first", "--reason=begins")
    assert members(Group.objects.get(name="treasury")) == {"ann", "bob"}


def manager(name: str = "dora", **more: Any) -> User:
    user = someone(name, may="view_question", **more)
    found = Permission.objects.filter(content_type__app_label="auth")
    user.user_permissions.add(*found.filter(codename__regex="_(user|group)$"))
    return user


@pytest.mark.case("K46")
def test_console_asks_the_members_and_tells_of_it(treasury: Group, eve: User) -> None:
    dora, bob, cat = (
        browser(manager()),
        *(someone(name, "treasury", may="view_question") for name in ("bob", "cat")),
    )
    page = f"/admin/auth/group/{treasury.pk}"
    shown = text_of(dora.get(f"{page}/change/"))
    assert "signatures by the rule ask (2 of them). It has 3 active members." in shown
    assert "Ask to add a member" in shown
    form = {"person_id": eve.pk, "reason": "joins the team", "password": PASSWORD}
    assert "Neither you nor the person answers" in text_of(dora.get(f"{page}/add-member/"))
    assert "not your password" in text_of(dora.post(f"{page}/add-member/", {**form, "password": "no"}))
    assert not Question.objects.exists()
    told = text_of(dora.post(f"{page}/add-member/", form, follow=True))
    assert "Nothing has changed yet: the members are asked to approve it." in told
    assert "add eve to the group treasury, whose members approve. dora says: joins the team" in told
    question = Question.objects.get()
    answer = {"content_hash": question.content_hash, "reason": "I know her", "password": PASSWORD}
    assert "add eve to the group treasury" in text_of(browser(bob).get("/admin/keyguard/question/"))
    browser(bob).post(at(question, "approve"), answer)
    assert "It is approved, and done." in text_of(
        browser(cat).post(at(question, "approve"), answer, follow=True)
    )
    assert "eve" in members(treasury)
    assert "ADD eve, by dora, cat: joins the team" in text_of(dora.get(f"{page}/change/"))
    dora.post(f"{page}/remove-member/", form | {"reason": "left"})
    assert "eve" not in members(treasury)


@pytest.mark.case("K46")
def test_console_refuses_to_change_a_group_that_approves_anywhere_else(treasury: Group, eve: User) -> None:
    root = someone("root")
    User.objects.filter(pk=root.pk).update(is_superuser=True)
    client = browser(root)
    form = {
        "username": "eve",
        "groups": [treasury.pk],
        "is_active": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "your_password": PASSWORD,
    }
    told = text_of(client.post(f"/admin/auth/user/{eve.pk}/change/", form))
    assert "who is in treasury is for its members to say" in told
    assert "eve" not in members(treasury)
    readers = Group.objects.create(name="readers")
    client.post(f"/admin/auth/user/{eve.pk}/change/", form | {"groups": [readers.pk]})
    assert members(readers) == {"eve"}
    ann = User.objects.get(username="ann")
    assert client.post(f"/admin/auth/user/{ann.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"/admin/auth/group/{treasury.pk}/delete/", {"post": "yes"}).status_code == 403
    told = text_of(
        client.post(f"/admin/auth/group/{treasury.pk}/change/", {"name": "old", "your_password": PASSWORD})
    )
    assert "a rule or a setting goes by this name" in told
    assert "a rule or a setting" in text_of(
        client.post(
            f"/admin/auth/group/{readers.pk}/change/", {"name": "treasury", "your_password": PASSWORD}
        )
    )
    assert client.get(f"/admin/auth/group/{readers.pk}/add-member/").status_code == 403


def test_whoever_does_not_manage_people_asks_for_nothing(treasury: Group, eve: User) -> None:
    finn = browser(someone("finn", may="view_question"))
    form = {"person_id": eve.pk, "reason": "joins", "password": PASSWORD}
    assert finn.post(f"/admin/auth/group/{treasury.pk}/add-member/", form).status_code == 403
    assert not Question.objects.exists()
