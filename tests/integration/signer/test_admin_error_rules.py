"""Rules for the words of nodes in the admin: tried before they are saved, made from what nodes said, on record."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from signer import error_rules, unknown_texts
from signer.errors import RpcNodeError
from signer.models import Act, Chain, ErrorRule, Incident, UnknownText

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),  # whitenoise, before `collectstatic`
]

ODD = "sequencer queue is at capacity, retry 0xabcdef in 250ms"
ADD = "admin:signer_errorrule_add"
WRAPPED = (
    '{"id": 1, "error": {"code": -32603, "message": "x", "data": {"message": "the queue is at capacity"}}}'
)


@pytest.fixture(autouse=True)
def fresh_rules() -> Any:
    error_rules.forget()
    yield
    error_rules.forget()


@pytest.fixture
def ada() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture
def chain() -> Chain:
    return Chain.objects.create(chain_id=1, name="test", genesis_hash="0x" + "00" * 32)


def enter(client: Client, row: ErrorRule | None = None, **changed: str) -> str:
    """Enter a rule; return the page that comes of it."""
    entered = {
        "pattern": "queue is at capacity",
        "error_class": "LIMIT",
        "chain": "",
        "position": "100",
        "active": "on",
        "note": "their status page",
        "trial": "",
        **changed,
    }
    view = "admin:signer_errorrule_change" if row else ADD
    address = reverse(view, args=[row.pk] if row else [])
    return str(client.post(address, entered, follow=True).content.decode())


def words(page: str) -> str:
    """The page's text, without its tags' line breaks."""
    return " ".join(page.split())


@pytest.mark.case("S43")
def test_a_rule_made_from_an_unknown_text_closes_its_incident(ada: Client, chain: Chain) -> None:
    unknown_texts.note(chain, [RpcNodeError(ODD)] * 7)
    text = UnknownText.objects.get()
    listed = ada.get(reverse("admin:signer_unknowntext_changelist")).content.decode()
    assert "sequencer queue is at capacity" in listed
    assert f"{reverse(ADD)}?text={text.pk}" in listed
    assert "possibly sent: no rule knows it" in listed
    page = ada.get(reverse(ADD), {"text": str(text.pk)}).content.decode()
    pattern = unknown_texts.suggested_pattern(text.text)
    assert f'value="{pattern}"' in page
    assert ODD in page
    saved = enter(ada, pattern=pattern, chain="1")
    assert "Live in every process within 3 seconds. Closed 1 incident about words that it knows." in saved
    incident = Incident.objects.get()
    assert incident.closed_by == "ada"
    assert ErrorRule.objects.get().created_by == "ada"
    listed = ada.get(reverse("admin:signer_unknowntext_changelist")).content.decode()
    assert "possibly sent" not in listed


@pytest.mark.parametrize("filter", ["yes", "no"])
def test_texts_are_found_by_whether_a_rule_knows_them(ada: Client, chain: Chain, filter: str) -> None:
    unknown_texts.note(chain, [RpcNodeError("the moon"), RpcNodeError("the sun")])
    enter(ada, pattern="the moon")
    page = ada.get(reverse("admin:signer_unknowntext_changelist"), {"known": filter}).content.decode()
    assert ("the moon</code>" in page, "the sun</code>" in page) == (filter == "yes", filter == "no")


def test_trying_says_what_it_means_now_and_with_the_rule_and_saves_nothing(ada: Client, chain: Chain) -> None:
    unknown_texts.note(chain, [RpcNodeError(ODD)] * 7)
    page = words(enter(ada, note="", trial=WRAPPED, _try="1"))
    assert "The words that count: <code>the queue is at capacity</code>" in page
    now, then = page.split("As it is now:")[1].split("With this rule:")
    assert "AMBIGUOUS" in now
    assert "no rule knows it" in now
    assert "LIMIT" in then
    assert "this rule “queue is at capacity”" in then
    assert "7×, test:" in page, "which of the unknown texts it would know"
    assert not ErrorRule.objects.exists()
    assert not Act.objects.exists()


def test_trying_an_edit_leaves_the_stored_rule_alone(ada: Client) -> None:
    enter(ada)
    row = ErrorRule.objects.get()
    page = words(enter(ada, row, error_class="PERMANENT", trial="queue is at capacity", _try="1"))
    now, then = page.split("As it is now:")[1].split("With this rule:")
    assert f"rule {row.pk}" in now
    assert "LIMIT" in now
    assert "PERMANENT" in then
    row.refresh_from_db()
    assert row.error_class == "LIMIT"


def test_a_rule_that_comes_first_is_seen_when_another_is_tried(ada: Client) -> None:
    enter(ada, pattern="queue", error_class="RATE", position="10")
    page = words(enter(ada, trial="queue is at capacity", _try="1"))
    assert "RATE" in page.split("With this rule:")[1].split("Unknown texts")[0]


def test_trying_asks_only_rules_of_its_chain(ada: Client, chain: Chain) -> None:
    other = Chain.objects.create(chain_id=2, name="other", genesis_hash="0x" + "00" * 32)
    enter(ada, pattern="queue", error_class="RATE", position="10", chain=str(other.pk))
    page = words(enter(ada, trial="queue is at capacity", chain="1", _try="1"))
    assert "RATE" not in page.split("What came of it")[1]


@pytest.mark.parametrize("as_trial", [{}, {"_try": "1"}])
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pattern": "["}, "not a regular expression"),
        ({"pattern": ".*"}, "nearly every text"),
        ({"pattern": "(a+)+$"}, "takes for ever"),
        ({"pattern": ""}, "required"),
        ({"error_class": "MAGIC"}, "not one of the available choices"),
        ({"trial": "x" * 20_001}, "at most 20000 characters"),
    ],
)
def test_a_bad_rule_is_neither_saved_nor_tried(
    ada: Client, changed: dict[str, str], why: str, as_trial: dict[str, str]
) -> None:
    assert why in enter(ada, **{"trial": "queue", **changed, **as_trial})
    assert not ErrorRule.objects.exists()


def test_note_is_required_to_save(ada: Client) -> None:
    assert "required" in enter(ada, note="")
    assert not ErrorRule.objects.exists()


def test_edits_are_on_record(ada: Client) -> None:
    enter(ada)
    row = ErrorRule.objects.get()
    enter(ada, row, error_class="RATE", note="ask them again")
    row.refresh_from_db()
    assert (row.error_class, row.updated_by) == ("RATE", "ada")
    ada.post(reverse("admin:signer_errorrule_delete", args=[row.pk]), {"post": "yes"})
    assert not ErrorRule.objects.exists()
    acts = [(act.verb, act.reason) for act in Act.objects.order_by("at")]
    assert acts == [
        ("add_rule", "their status page"),
        ("edit_rule", "ask them again"),
        ("delete_rule", "ask them again"),
    ]
    assert {act.actor for act in Act.objects.all()} == {"ada"}


def test_what_was_pasted_is_escaped(ada: Client) -> None:
    page = enter(ada, trial="<script>queue is at capacity</script>", _try="1")
    assert "<script>queue" not in page


def test_forgotten_text_is_told_of_no_more(ada: Client, chain: Chain) -> None:
    unknown_texts.note(chain, [RpcNodeError("one"), RpcNodeError("two")])
    one = UnknownText.objects.get(text="one")
    ada.post(reverse("admin:signer_unknowntext_delete", args=[one.pk]), {"post": "yes"})
    assert list(UnknownText.objects.values_list("text", flat=True)) == ["two"]
    assert Incident.objects.get(closed_at=None).details == {"text_id": UnknownText.objects.get().pk}
