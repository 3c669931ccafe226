"""A key that takes over: made once, given the alias once, and the old one retired after that and not before."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from keyguard import create_key, find_key, lifecycle, sign_message, succession
from keyguard.errors import KeyActInvalidError
from keyguard.kek_rotation import rotate
from keyguard.models import Kek, Key, KeyAct
from keyguard.policies import publishing
from keyguard.policies.models import Question
from keyguard.states import KekState, KeyState, KeyVerb
from tests.integration.keyguard.keks import kek_text, set_keks
from tests.integration.keyguard.policies import person
from tests.softhsm import SoftToken
from tests.threads import at_once
from workflows import crashpoint
from workflows.models import Run


class DiedError(BaseException):
    """Stands for the death of the process."""


def successor(key: Key, backend: str = "") -> Key:
    return succession.make_successor(key, "ann", "once a year", backend)


def aliases() -> dict[str, str]:
    return {key.alias: key.address for key in Key.objects.all()}


@pytest.mark.sqlite_too
def test_successor_takes_the_alias_and_both_sign_until_the_old_one_is_retired(fresh_db: str) -> None:
    old = create_key("treasury")
    new = successor(old)
    assert (new.alias, new.replaces, new.backend) == ("treasury.next", old, "database")
    with pytest.raises(KeyActInvalidError, match="not handed over"):
        succession.retire_replaced(old, new, "ann", "x")
    for _ in range(2):
        succession.hand_alias_over(old, new, "ann", "once a year")
    assert aliases() == {"treasury": new.address, "treasury.retired-1": old.address}
    assert sign_message(old.address, b"x", "one")
    assert sign_message(find_key("treasury").address, b"x", "two")
    for _ in range(2):
        succession.retire_replaced(old, new, "ann", "once a year")
    old.refresh_from_db()
    assert old.state == KeyState.RETIRED
    assert KeyAct.objects.filter(key=old).count() == 2
    # And the next generation.
    third = successor(find_key("treasury"))
    succession.hand_alias_over(new, third, "ann", "once a year")
    assert aliases() == {
        "treasury": third.address,
        "treasury.retired-1": old.address,
        "treasury.retired-2": new.address,
    }


@pytest.mark.sqlite_too
def test_alias_goes_back_and_comes_again(fresh_db: str) -> None:
    old = create_key("a" * 64)
    new = successor(old)
    before = aliases()
    for _ in range(2):
        succession.hand_alias_over(old, new, "ann", "x")
        succession.give_alias_back(old, new, "ann", "it failed")
        succession.give_alias_back(old, new, "ann", "it failed")
        assert aliases() == before
    assert successor(Key.objects.get(pk=old.pk)) == new
    assert (
        list(KeyAct.objects.filter(key=old).order_by("at").values_list("verb", flat=True))
        == [
            "HAND_OVER",
            "GIVE_BACK",
        ]
        * 2
    )


@pytest.mark.postgresql("one writer at a time on SQLite")
def test_two_who_make_a_successor_at_once_make_one(fresh_db: str) -> None:
    old = create_key("treasury")
    made = at_once(4, lambda number: successor(old).pk)
    assert len(set(made)) == 1
    assert Key.objects.filter(replaces=old).count() == 1


@pytest.mark.parametrize("backend", ["database", "pkcs11"])
@pytest.mark.parametrize("point", ["keyguard.successor_making", "keyguard.successor_made"])
def test_crash_while_a_successor_is_made_leaves_one_at_most(
    fresh_db: str, hsm: SoftToken, monkeypatch: pytest.MonkeyPatch, backend: str, point: str
) -> None:
    old = create_key("treasury", backend)

    def die(name: str) -> None:
        if name == point:
            raise DiedError

    monkeypatch.setattr(crashpoint, "watcher", die)
    with pytest.raises(DiedError):
        successor(old)
    monkeypatch.setattr(crashpoint, "watcher", None)
    assert Key.objects.filter(replaces=old).count() == (point == "keyguard.successor_made")
    new = successor(old)
    assert Key.objects.get(replaces=old) == new
    assert sign_message(new.address, b"x", "one")
    assert KeyAct.objects.filter(key=new, verb="ROTATE").count() == 1


@pytest.mark.parametrize("point", ["keyguard.alias_moving", "keyguard.key_retiring"])
def test_crash_in_the_middle_of_a_hand_over_changes_nothing(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    old = create_key("treasury")
    new = successor(old)
    steps: list[Any] = [succession.hand_alias_over, succession.retire_replaced]
    if point == "keyguard.key_retiring":
        steps.pop(0)(old, new, "ann", "x")
    before, acts = aliases(), KeyAct.objects.count()

    def die(name: str) -> None:
        if name == point:
            raise DiedError

    monkeypatch.setattr(crashpoint, "watcher", die)
    with pytest.raises(DiedError):
        steps[0](old, new, "ann", "x")
    monkeypatch.setattr(crashpoint, "watcher", None)
    assert (aliases(), KeyAct.objects.count()) == (before, acts)
    assert sign_message(old.address, b"x", "one")
    steps[0](old, new, "ann", "x")
    assert KeyAct.objects.count() == acts + 1


def test_successor_that_was_given_up_is_followed_by_another(db: None) -> None:
    old = create_key("treasury")
    first = successor(old)
    lifecycle.act(first, KeyVerb.COMPROMISED, "ann", "its token was stolen")
    second = successor(old)
    assert (second.alias, second.replaces) == ("treasury.next-2", old)
    assert not succession.has_alias(old, second)
    succession.hand_alias_over(old, second, "ann", "x")
    assert find_key("treasury") == second


def test_command_starts_the_run_that_hands_a_key_over(db: None, settings: Any) -> None:
    key = create_key("treasury")
    said = StringIO()
    call_command("rotate_key", "treasury", reason="once a year", fund_wei=10**18, stdout=said)
    run = Run.objects.get()
    assert said.getvalue().strip() == str(run.pk)
    assert (run.workflow, run.input["fund_wei"]) == ("key.rotate", str(10**18))
    assert KeyAct.objects.get(key=key).details == {"run": str(run.pk)}
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    call_command("rotate_key", "treasury", reason="once more", stdout=said)
    assert "1 of officers must approve it" in said.getvalue()
    assert Run.objects.count() == 1
    lifecycle.act(key, KeyVerb.SUSPEND, "ann", "odd")
    for arguments, words in (
        (("treasury", "--reason", "x"), "Suspended signs nothing"),
        (("nobody", "--reason", "x"), "KEYGUARD_KEY_NOT_FOUND"),
        (("treasury", "--reason", " "), "say why"),
        (("treasury", "--reason", "x", "--fund-wei", "0"), "1 at least"),
        (("treasury", "--reason", "x", "--backend", "moon"), "KEYGUARD_BACKEND_UNKNOWN"),
    ):
        with pytest.raises(CommandError, match=words):
            call_command("rotate_key", *arguments)


def approve(question: Question) -> None:
    publishing.vote(question, person("bob", "officers"), True, question.content_hash)


@pytest.mark.case("K44")
def test_keks_are_rotated_and_destroyed_after_the_yes_of_another_person(fresh_db: str, settings: Any) -> None:
    set_keks(settings, kek_text("a"))
    create_key("treasury")
    old = Kek.objects.get()
    set_keks(settings, kek_text("b"), kek_text("a"))
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    said = StringIO()
    call_command("rotate_kek", stdout=said)
    assert "Then run the same command again" in said.getvalue()
    assert Kek.objects.get() == old
    approve(Question.objects.get())
    # A rotation that was begun goes on without another yes.
    call_command("rotate_kek", stdout=said)
    assert "1 keys are under env" in said.getvalue()
    old.refresh_from_db()
    assert old.state == KekState.RETIRED
    call_command("destroy_kek", str(old.pk), backups_before_it_are_gone=True, stdout=said)
    old.refresh_from_db()
    assert old.state == KekState.RETIRED
    approve(Question.objects.get(state="OPEN"))
    call_command("destroy_kek", str(old.pk), backups_before_it_are_gone=True, stdout=said)
    old.refresh_from_db()
    assert old.state == KekState.DESTROYED
    # The yes is used up: the next rotation is asked for anew.
    call_command("rotate_kek", stdout=said)
    assert Question.objects.filter(state="OPEN").count() == 1


def test_rotation_of_a_kek_that_was_cut_short_goes_on_without_another_yes(
    fresh_db: str, settings: Any
) -> None:
    set_keks(settings, kek_text("a"))
    create_key("treasury")
    set_keks(settings, kek_text("b"), kek_text("a"))
    begun = rotate()
    next(begun)
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    said = StringIO()
    call_command("rotate_kek", stdout=said)
    assert "1 keys are under env" in said.getvalue()
    assert not Question.objects.exists()
