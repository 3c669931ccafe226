"""People, groups and tokens in the console: a session alone changes nothing of what anybody may do."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from dalp.models import ApiToken, WrongPassword
from tests.integration.dalp.factors import code_of, given, wrong_code_of
from tests.integration.keyguard.people import PASSWORD, browser, someone, text_of

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

NEW = "another horse battery 7"
KEPT = {"username": "eve", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}


@pytest.fixture
def root(db: None) -> User:
    someone("root")
    User.objects.update(is_superuser=True)
    return User.objects.get()


@pytest.fixture
def eve(root: User) -> User:
    return someone("eve")


@pytest.fixture
def client(root: User) -> Client:
    return browser(root)


def edited(client: Client, eve: User, **changes: Any) -> str:
    form = KEPT | {"is_active": "on", "is_staff": "on"} | changes
    page = f"/admin/auth/user/{eve.pk}/change/"
    return text_of(client.post(page, {name: value for name, value in form.items() if value}, follow=True))


def rights(eve: User) -> tuple[Any, ...]:
    eve.refresh_from_db()
    names = [group.name for group in eve.groups.all()]
    return eve.username, eve.is_active, eve.is_superuser, names, eve.user_permissions.count()


CHANGES: dict[str, Any] = {
    "is_superuser": {"is_superuser": "on"},
    "is_active": {"is_active": ""},
    "groups": {"groups": "readers"},
    "user_permissions": {"user_permissions": "change_key"},
    "username": {"username": "adam"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_person_may_do_is_changed_by_whoever_confirms_it(
    client: Client, root: User, eve: User, what: str
) -> None:
    changes = dict(CHANGES[what])
    if what == "groups":
        changes["groups"] = Group.objects.create(name="readers").pk
    if what == "user_permissions":
        changes["user_permissions"] = Permission.objects.get(codename="change_key").pk
    before = rights(eve)
    assert "This field is required" in edited(client, eve, **changes)
    assert "This is not your password" in edited(client, eve, **changes, your_password="guess")
    assert rights(eve) == before
    assert WrongPassword.objects.filter(user=root).count() == 1
    assert "changed successfully" in edited(client, eve, **changes, your_password=PASSWORD)
    assert rights(eve) != before
    assert "password" not in LogEntry.objects.get().change_message.lower()
    assert User.objects.get(pk=eve.pk).check_password(PASSWORD), "the field is not the row's"


def test_of_whoever_has_a_second_factor_the_password_alone_changes_nothing(
    client: Client, root: User, eve: User
) -> None:
    given(root)
    changes = {"is_superuser": "on", "your_password": PASSWORD}
    before = rights(eve)
    assert "Code of your second factor" in text_of(client.get(f"/admin/auth/user/{eve.pk}/change/"))
    assert "This field is required" in edited(client, eve, **changes)
    code = wrong_code_of(root)
    assert "The password or the code is wrong" in edited(client, eve, **changes, one_time_code=code)
    assert rights(eve) == before
    assert "changed successfully" in edited(client, eve, **changes, one_time_code=code_of(root))
    assert rights(eve) != before


def test_where_a_second_factor_is_required_whoever_has_none_changes_nobody(
    client: Client, eve: User, settings: Any
) -> None:
    settings.CONSOLE_SECOND_FACTOR = "required"
    before = rights(eve)
    told = edited(client, eve, is_superuser="on", your_password=PASSWORD)
    assert "Dangerous acts want a second factor here, and you have none" in told
    assert rights(eve) == before


@pytest.mark.parametrize("whose", ["another's", "one's own"])
def test_password_is_given_by_whoever_confirms_it(client: Client, root: User, eve: User, whose: str) -> None:
    given(root)
    person = eve if whose == "another's" else root
    page = f"/admin/auth/user/{person.pk}/password/"
    form = {"password1": NEW, "password2": NEW, "usable_password": "true"}
    assert "Your password" in text_of(client.get(page))
    for more in (
        {},
        {"your_password": PASSWORD},
        {"your_password": NEW, "one_time_code": code_of(root)},
        {"your_password": PASSWORD, "one_time_code": wrong_code_of(root)},
        {"your_password": PASSWORD, "usable_password": "false", "unset-password": "1"},
    ):
        assert client.post(page, form | more).status_code == 200
        assert User.objects.get(pk=person.pk).check_password(PASSWORD), more
    answer = client.post(page, form | {"your_password": PASSWORD, "one_time_code": code_of(root)})
    assert answer.status_code == 302
    assert User.objects.get(pk=person.pk).check_password(NEW)


def test_what_a_group_may_do_is_changed_by_whoever_confirms_it(client: Client, eve: User) -> None:
    readers = Group.objects.create(name="readers")
    page = f"/admin/auth/group/{readers.pk}"
    form = {"name": "readers", "permissions": Permission.objects.get(codename="change_key").pk}
    assert "This field is required" in text_of(client.post(f"{page}/change/", form))
    assert not readers.permissions.exists()
    client.post(f"{page}/change/", form | {"your_password": PASSWORD})
    assert readers.permissions.get().codename == "change_key"
    eve.groups.add(readers)
    assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    eve.groups.clear()
    assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 302
    assert not Group.objects.exists()


def test_nobody_is_deleted_and_whoever_may_only_look_is_asked_for_nothing(client: Client, eve: User) -> None:
    assert client.post(f"/admin/auth/user/{eve.pk}/delete/", {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [str(eve.pk)], "post": "yes"}
    client.post("/admin/auth/user/", chosen)
    assert User.objects.filter(pk=eve.pk).exists()
    eve.user_permissions.set([Permission.objects.get(codename="view_user")])
    page = text_of(browser(eve).get(f"/admin/auth/user/{eve.pk}/change/"))
    assert "eve" in page
    assert "your_password" not in page


def test_token_is_revoked_by_whoever_confirms_it_and_none_is_made_in_the_console(
    client: Client, root: User
) -> None:
    token, text = ApiToken.issue("ci", "viewer")
    other, _ = ApiToken.issue("cd", "viewer")
    assert client.get(reverse("admin:dalp_apitoken_add")).status_code == 403
    page = f"/admin/dalp/apitoken/{token.pk}/revoke/"
    chosen = {"action": "revoke", "_selected_action": [str(token.pk)]}
    client.post(reverse("admin:dalp_apitoken_changelist"), chosen)
    assert "never opens the door again" in text_of(client.get(page))
    for more, words in (({}, "This field is required"), ({"password": "guess"}, "not your password")):
        assert words in text_of(client.post(page, {"reason": "left", **more}))
    assert ApiToken.find(text) == token
    assert text not in text_of(client.get(reverse("admin:dalp_apitoken_change", args=[token.pk])))
    client.post(page, {"reason": "left the team", "password": PASSWORD})
    assert ApiToken.find(text) is None
    assert LogEntry.objects.get(object_id=token.pk).change_message == "Revoked: left the team"
    assert client.get(page).status_code == 403, "it is revoked"
    assert browser(someone("eve")).get(page.replace(str(token.pk), str(other.pk))).status_code == 403
