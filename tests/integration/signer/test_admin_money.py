"""Balances and top-ups in the admin: what an operator reads, enters, and can't enter."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keyguard import create_key
from signer import topping_up
from signer.admin.ether import EtherField
from signer.models import Act, Chain, Lane, LaneMoney, TopUp, Transaction
from workflows.models import Run

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:No directory at:UserWarning"),  # whitenoise, before `collectstatic`
]

ETHER = 10**18


@pytest.fixture
def ada() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture
def lane() -> Lane:
    """A lane that is low, and the treasury's, which is not."""
    chain = Chain.objects.create(chain_id=1, name="test", genesis_hash="0x" + "00" * 32)
    treasury, poor = create_key("treasury"), create_key("poor")
    rich = Lane.objects.create(chain=chain, address=treasury.address)
    LaneMoney.objects.create(lane=rich, balance_wei=500 * ETHER, balance_at=timezone.now())
    lane = Lane.objects.create(chain=chain, address=poor.address)
    LaneMoney.objects.create(
        lane=lane, balance_wei=123_456_789_012_345_678, balance_at=timezone.now(), spent_hour_wei=ETHER // 10,
        runway_seconds=4400, low_since=timezone.now() - timedelta(minutes=30), low_balance_wei=ETHER,
    )  # fmt: skip
    return lane


def page(client: Client, view: str, *args: Any, **query: str) -> str:
    response = client.get(reverse(f"admin:signer_{view}", args=args), query)
    assert response.status_code == 200
    return str(response.content.decode())


def top_up(client: Client, lane: Lane, **changed: str) -> str:
    """Enter a new top-up; return the page that comes of it."""
    entered = {
        "lane": str(lane.pk),
        "treasury": "treasury",
        "level_wei": "5",
        "daily_cap_wei": "20.5",
        "active": "on",
        "reason": "as agreed",
        **changed,
    }
    return str(client.post(reverse("admin:signer_topup_add"), entered, follow=True).content.decode())


def rule(lane: Lane, **fields: Any) -> TopUp:
    given = {"treasury": "treasury", "level_wei": 5 * ETHER, "daily_cap_wei": 20 * ETHER, "created_by": "ada"}
    return TopUp.objects.create(lane=lane, **{**given, **fields})


@pytest.mark.parametrize("view", ["lane_changelist", "lanemoney_changelist"])
def test_lists_show_what_is_low_and_find_it(ada: Client, lane: Lane, view: str) -> None:
    text = page(ada, view)
    assert "0.123456 ether" in text
    assert "about 73 minutes" in text
    low = page(ada, view, money="low")
    assert lane.address in low
    assert "500 ether" not in low
    assert lane.address not in page(ada, view, money="waits")


def test_balances_begin_with_who_is_low(ada: Client, lane: Lane) -> None:
    text = page(ada, "lanemoney_changelist")
    assert text.index("0.123456 ether") < text.index("500 ether")


def test_pages_show_every_digit(ada: Client, lane: Lane) -> None:
    for view in ("lane_change", "lanemoney_change"):
        text = page(ada, view, lane.pk)
        assert "0.123456789012345678 ether" in text
        assert "0.1 ether in the last hour" in text


def test_lanes_are_asked_about_as_often_for_many_as_for_few(
    ada: Client, lane: Lane, django_assert_max_num_queries: Any
) -> None:
    rule(lane)
    for number in range(5):
        other = Lane.objects.create(chain=lane.chain, address=create_key(f"other-{number}").address)
        LaneMoney.objects.create(lane=other, balance_wei=1, balance_at=timezone.now())
        rule(other)
    for view in ("lanemoney_changelist", "topup_changelist"):
        with django_assert_max_num_queries(13):
            page(ada, view)


def test_threshold_is_entered_in_ether_and_on_record(ada: Client, lane: Lane) -> None:
    address = reverse("admin:signer_lanemoney_change", args=[lane.pk])
    LaneMoney.objects.update(balance_wei=7)  # seen since the page was opened
    ada.post(address, {"low_balance_wei": "0.000000000000000001", "reason": "more at month's end"})
    money = LaneMoney.objects.get(lane=lane)
    assert (money.low_balance_wei, money.balance_wei) == (1, 7)
    act = Act.objects.get()
    assert (act.actor, act.verb, act.reason, act.lane) == (
        "ada",
        "set_low_balance",
        "more at month's end",
        lane,
    )
    ada.post(address, {"low_balance_wei": "", "reason": "by runway"})
    assert LaneMoney.objects.get(lane=lane).low_balance_wei is None


def test_top_up_is_entered_in_ether_and_on_record(ada: Client, lane: Lane) -> None:
    top_up(ada, lane)
    row = TopUp.objects.get()
    assert (row.level_wei, row.daily_cap_wei) == (5 * ETHER, 205 * ETHER // 10)
    assert (row.active, row.created_by) == (True, "ada")
    assert (Act.objects.get().verb, Act.objects.get().lane) == ("edit_top_up", lane)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"treasury": "poor"}, "own key"),
        ({"treasury": ""}, "required"),
        ({"level_wei": "1"}, "fill it up to more"),
        ({"level_wei": "0"}, "More than nothing"),
        ({"daily_cap_wei": "0"}, "switch it off"),
        ({"daily_cap_wei": "-1"}, "greater than or equal to 0"),
        ({"daily_cap_wei": "0.0000000000000000001"}, "no more than 18 decimal places"),
        ({"level_wei": "much"}, "Enter a number"),
        ({"reason": ""}, "required"),
    ],
)
def test_what_could_not_work_is_refused_in_words(
    ada: Client, lane: Lane, changed: dict[str, str], why: str
) -> None:
    assert why in top_up(ada, lane, **changed)
    assert not TopUp.objects.exists()


def test_money_is_not_sent_in_circles(ada: Client, lane: Lane) -> None:
    rich = Lane.objects.exclude(pk=lane.pk).get()
    rule(rich, treasury="poor")
    assert "filled up from itself" in top_up(ada, lane)


def test_an_edit_leaves_alone_what_workers_write(ada: Client, lane: Lane) -> None:
    """A reservation between the opening of the page and its saving stays."""
    row = rule(lane, day=timezone.now().date(), reserved_wei=3 * ETHER, number=4)
    address = reverse("admin:signer_topup_change", args=[row.pk])
    entered = {"treasury": "treasury", "level_wei": "6", "daily_cap_wei": "20", "reason": "more"}
    ada.post(address, entered)
    row.refresh_from_db()
    assert (row.level_wei, row.active) == (6 * ETHER, False)
    assert (row.reserved_wei, row.number, row.daily_cap_wei) == (3 * ETHER, 4, 20 * ETHER)
    assert set(Act.objects.get().details) == {"level_wei", "active"}
    assert ada.post(reverse("admin:signer_topup_delete", args=[row.pk])).status_code == 403


def test_page_says_why_nothing_is_transferred(ada: Client, lane: Lane) -> None:
    row = rule(lane)

    def says(sentence: str) -> bool:
        return sentence in page(ada, "topup_change", row.pk)

    assert says("when the lane is low")
    run = Run.objects.create(
        workflow="signer.top_up", version=1, input={}, state="FAILED", finished_at=timezone.now(),
        error={"code": "KEYGUARD_DENIED", "message": ""},
    )  # fmt: skip
    TopUp.objects.update(run_id=run.pk)
    assert says("its last run ended FAILED, again after")
    assert says("KEYGUARD_DENIED")
    TopUp.objects.update(day=timezone.now().date(), reserved_wei=20 * ETHER)
    assert says("not today: its cap is used up")
    assert says("20 ether of 20 ether: nothing is left")
    Lane.objects.update(state="PAUSED", state_reason="a test")
    assert says("not while its lane is PAUSED")
    TopUp.objects.update(active=False)
    assert says("no: it is switched off")
    transfer = Transaction.objects.create(
        chain=lane.chain, lane=lane, kind="CALL", value=ETHER, idempotency_key="t"
    )
    TopUp.objects.update(transfer=transfer)
    assert says("transfers 1 ether")


def test_who_may_only_look_sees_and_changes_nothing(lane: Lane) -> None:
    from django.contrib.auth.models import Permission

    row = rule(lane)
    viewer = User.objects.create_user("eve", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    eve = Client()
    eve.force_login(viewer)
    assert "5 ether" in page(eve, "topup_change", row.pk)
    assert "0.123456789012345678 ether" in page(eve, "lanemoney_change", lane.pk)
    entered = {"treasury": "treasury", "level_wei": "6", "daily_cap_wei": "20", "reason": "more"}
    assert eve.post(reverse("admin:signer_topup_change", args=[row.pk]), entered).status_code == 403
    assert "more at month" not in top_up(eve, lane)
    assert topping_up.left_today_wei(TopUp.objects.get(), timezone.now().date()) == 20 * ETHER


def test_ether_is_read_and_written_exactly() -> None:
    field = EtherField()
    most = 2**256 - 1
    for wei in (0, 1, 10**18, 123_456_789_012_345_678_901_234_567_890, most):
        assert field.clean(field.prepare_value(wei)) == wei
    assert not field.has_changed(ETHER, "1.0")
    assert field.has_changed(ETHER, "1.1")
    assert field.has_changed(ETHER, "much")
