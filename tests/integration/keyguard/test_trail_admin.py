"""The trail, its heads and seals in the console."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from keyguard import create_key, sealing, sign_message
from keyguard.audit import heads
from keyguard.audit.models import AuditEntry
from keyguard.errors import KeyguardSealedError
from keyguard.models import Key, Sealing
from keyguard.policies.models import Question
from tests.integration.keyguard.people import PASSWORD, browser, someone, text_of

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

MAY = "view_key change_key view_sealing view_auditentry view_audithead view_signingrecord view_question"


@pytest.fixture
def ann(db: None) -> Any:
    return browser(someone("ann", may=MAY))


def root() -> Any:
    return browser(User.objects.create_superuser("root"))


def listed(model: str, **query: str) -> str:
    return reverse(f"admin:keyguard_{model}_changelist", query=query)


def test_trail_reads_as_what_happened(key: Key, ann: Any) -> None:
    sign_message(key.address, b"hello", "message")
    page = text_of(ann.get(listed("auditentry")))
    for words in ("key added", "signatures intended", "signed", "treasury", "1 signature"):
        assert words in page
    signed = AuditEntry.objects.get(event="signed")
    page = ann.get(reverse("admin:keyguard_auditentry_change", args=[signed.pk])).content.decode()
    assert bytes(signed.mac).hex() in page
    records = ann.get(listed("signingrecord", key__id__exact=str(key.pk), result_seq="3"))
    assert "message (EIP-191)" in text_of(records)


def test_heads_say_how_they_are_noted_elsewhere(key: Key, ann: Any) -> None:
    head = heads.make_head()
    assert head
    page = text_of(ann.get(reverse("admin:keyguard_audithead_change", args=[1])))
    assert f"--head 1:{head.hash}" in page
    assert "treasury: entry 1" in page
    assert "names no key" in page
    assert head.hash in text_of(ann.get(listed("audithead")))


def test_seal_is_set_and_lifted_with_a_reason_and_the_password(key: Key, ann: Any) -> None:
    where = reverse("admin:keyguard_sealing_seal")
    given = {"backend": "", "reason": "a drill", "password": PASSWORD}
    assert "not your password" in text_of(ann.post(where, {**given, "password": "wrong"}))
    assert not Sealing.objects.exists()
    assert "all keys" in text_of(ann.post(where, given, follow=True))
    with pytest.raises(KeyguardSealedError):
        sign_message(key.address, b"hello", "message")
    assert "signs nothing now" in text_of(ann.get(listed("key")))
    assert "such a seal already" in text_of(ann.post(where, given))
    row = Sealing.objects.get()
    assert "all keys are sealed by ann (a drill): they sign nothing" in text_of(
        root().get(reverse("admin:index"))
    )
    lift = reverse("admin:keyguard_sealing_lift", args=[row.pk])
    assert "a drill" in text_of(ann.get(lift))
    ann.post(lift, {"reason": "it is over", "password": PASSWORD})
    assert sign_message(key.address, b"hello", "message")
    row.refresh_from_db()
    assert (row.actor, row.lifted_by, row.lifted_reason) == ("ann", "ann", "it is over")


def test_seal_of_one_backend_leaves_the_others(key: Key, ann: Any) -> None:
    Key.objects.filter(pk=create_key("far-away").pk).update(backend="vault")
    where = reverse("admin:keyguard_sealing_seal")
    assert "vault" in ann.get(where).content.decode()
    ann.post(where, {"backend": "vault", "reason": "it was moved", "password": PASSWORD})
    assert sign_message(key.address, b"hello", "message")
    assert Sealing.objects.get().backend == "vault"


def test_lifting_takes_others_where_a_group_is_named(key: Key, ann: Any, settings: Any) -> None:
    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    sealing.seal("a drill", actor="ann")
    row = Sealing.objects.get()
    lift = reverse("admin:keyguard_sealing_lift", args=[row.pk])
    page = text_of(ann.post(lift, {"reason": "it is over", "password": PASSWORD}, follow=True))
    assert "members of officers are asked" in page
    question = Question.objects.get()
    assert "lift the seal" in text_of(ann.get(listed("question")))
    shown = text_of(ann.get(reverse("admin:keyguard_sealing_change", args=[row.pk])))
    assert "lift the seal on all backends, which was set because: a drill" in shown
    bob = browser(someone("bob", "officers", may=MAY))
    approve = reverse("admin:keyguard_question_approve", args=[question.pk])
    assert "a drill" in text_of(bob.get(approve))
    answer = {"content_hash": question.content_hash, "reason": "seen it", "password": PASSWORD}
    said = text_of(bob.post(approve, answer, follow=True))
    assert "It is approved, and done." in said
    assert sign_message(key.address, b"hello", "message")


@pytest.mark.parametrize("model", ["auditentry", "audithead", "sealing"])
def test_nobody_changes_them(key: Key, model: str) -> None:
    sealing.seal("a drill", actor="ann")
    heads.make_head()
    everybody = root()
    one = {"auditentry": AuditEntry.objects.all()[0].pk, "audithead": 1, "sealing": Sealing.objects.get().pk}
    where = reverse(f"admin:keyguard_{model}_change", args=[one[model]])
    assert everybody.post(where, {"reason": "mine"}).status_code == 403
    assert everybody.get(reverse(f"admin:keyguard_{model}_delete", args=[one[model]])).status_code == 403
