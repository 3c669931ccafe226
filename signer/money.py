"""Watching what lanes have: counting what they spend, telling people before it is gone, having them filled up.

Nothing here decides whether something is sent: a lane that can't pay holds its transactions back by itself (`granting`),
and goes on when the money is there. What is written is what was seen at an instant; a look that comes late writes
nothing over a later one.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from signer import chains, runway, topping_up
from signer.errors import ChainMismatchError, RpcError
from signer.incidents import close_incident, open_incident
from signer.models import Chain, Incident, Lane, LaneMoney, Spending, TopUp, Transaction
from signer.receipts import Verdict
from signer.rpc import quantity
from signer.runway import BUCKET, DAY_SECONDS, HOUR_SECONDS
from signer.sentences import ether
from signer.states import IN_FLIGHT, WAITING, IncidentKind, SubState
from workflows import db_now

log = structlog.get_logger()

# So long a lane that is filled up by itself may be low before people are told.
TOP_UP_PATIENCE = timedelta(minutes=10)
LANES_MAX = 2000
ABOUT_WEI = 10**12  # six digits of an ether
SEEN = (
    "balance_wei", "balance_at", "spent_hour_wei", "spent_day_wei", "runway_seconds", "waits", "low_since",
)  # fmt: skip


def busy_chains() -> list[int]:
    """Return the chains on which some lane's money is looked at."""
    return list(watched().order_by("chain_id").values_list("chain_id", flat=True).distinct())


def watched() -> "QuerySet[Lane]":
    """Return the lanes that spend, want to, or of which a person wants to be told."""
    unsettled = Transaction.objects.filter(lane=OuterRef("pk"), state__in=[*WAITING, *IN_FLIGHT])
    recent = Spending.objects.filter(lane=OuterRef("pk"), at__gt=db_now() - timedelta(seconds=DAY_SECONDS))
    wanted = Q(money__low_balance_wei__isnull=False) | Q(money__low_since__isnull=False)
    return Lane.objects.filter(Exists(unsettled) | Exists(recent) | wanted | Q(top_up__active=True))


def lanes_low_on_money() -> "QuerySet[LaneMoney]":
    """Return what is known of the lanes that are low, the one that has been so for longest first."""
    return (
        LaneMoney.objects.filter(low_since__isnull=False).select_related("lane__chain").order_by("low_since")
    )


# --- What is spent ------------------------------------------------------------------------------------------


def count_spent(now: datetime, settled: Iterable[tuple[UUID, Verdict]]) -> None:
    """Add what transactions cost to what their lanes have spent. Within the transaction that settles them.

    settled: lane and verdict of each. The caller owns the chain (`guard`), so nobody else counts for its lanes meanwhile.
    """
    spent: dict[UUID, int] = defaultdict(int)
    for lane_id, verdict in settled:
        if verdict.attempt is not None and verdict.receipt is not None:
            spent[lane_id] += runway.cost_wei(verdict.receipt, verdict.attempt)
    at = runway.bucket_of(now)
    known = dict(Spending.objects.filter(lane__in=spent, at=at).values_list("lane_id", "spent_wei"))
    rows = [Spending(lane_id=pk, at=at, spent_wei=wei + known.get(pk, 0)) for pk, wei in spent.items()]
    Spending.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["lane", "at"], update_fields=["spent_wei"]
    )


def spent_wei(lanes: Sequence[Lane], now: datetime, seconds: int) -> dict[UUID, int]:
    """Return what the lanes have spent in the last so many seconds, to about ten minutes."""
    sums: dict[UUID, int] = defaultdict(int)
    rows = Spending.objects.filter(lane__in=lanes, at__gt=now - timedelta(seconds=seconds))
    for lane_id, wei in rows.values_list("lane_id", "spent_wei"):  # not summed by SQLite, which would round
        sums[lane_id] += wei
    return sums


# --- What is left -------------------------------------------------------------------------------------------


def check(chain_id: int) -> None:
    """Look once at the money of a chain's lanes. When its node does not answer, nothing is known and nothing changes."""
    chain: Any = Chain.objects.annotate(now=db_now()).get(pk=chain_id)
    past = chain.now - timedelta(seconds=DAY_SECONDS) - BUCKET
    Spending.objects.filter(lane__chain=chain, at__lt=past).delete()
    lanes = list(watched().filter(chain=chain).order_by("pk")[:LANES_MAX])
    if not lanes:
        return
    try:
        balances = _ask(chain, lanes)
    except (RpcError, ChainMismatchError) as error:
        log.warning("balances_not_read", chain=chain_id, code=error.code, text=error.message)
        return
    LaneMoney.objects.bulk_create([LaneMoney(lane=lane) for lane in lanes], ignore_conflicts=True)
    rows = LaneMoney.objects.select_related("lane__chain").in_bulk(balances)
    hour, day = (spent_wei(lanes, chain.now, seconds) for seconds in (HOUR_SECONDS, DAY_SECONDS))
    waiting = _waiting(lanes)
    for pk, money in rows.items():
        money.balance_wei, money.balance_at = balances[pk], chain.now
        money.spent_hour_wei, money.spent_day_wei, money.waits = hour[pk], day[pk], pk in waiting
        _look(money)


def _ask(chain: Chain, lanes: Sequence[Lane]) -> dict[UUID, int]:
    """Return the balances that the node knows, asked in one batch. Raises RpcError, ChainMismatchError."""
    rpc = chains.connect(chain)
    calls = [("eth_getBalance", [lane.address, "latest"]) for lane in lanes]
    identity, *answers = rpc.batch([("eth_chainId", []), *calls])
    if isinstance(identity, RpcError):
        raise identity
    if quantity(identity) != chain.pk:
        raise ChainMismatchError(f"the node serves chain {quantity(identity)}, not {chain.pk}")
    balances = {}
    for lane, answer in zip(lanes, answers, strict=True):
        if isinstance(answer, RpcError):
            log.warning("balance_not_read", lane=str(lane.pk), code=answer.code)
        else:
            balances[lane.pk] = quantity(answer)
    return balances


def _waiting(lanes: Sequence[Lane]) -> set[UUID]:
    rows = Transaction.objects.filter(lane__in=lanes, state__in=[*WAITING, *IN_FLIGHT])
    short = rows.filter(sub_state=SubState.INSUFFICIENT_FUNDS)
    return set(short.order_by().values_list("lane_id", flat=True).distinct())


def _look(money: LaneMoney) -> None:
    """Judge what was seen of a lane, write it down, tell people, and have it filled up."""
    assert money.balance_wei is not None
    assert money.balance_at is not None
    money.runway_seconds = runway.lasts_seconds(money.balance_wei, money.spent_hour_wei, money.spent_day_wei)
    low = runway.is_low(
        money.balance_wei,
        money.low_balance_wei,
        money.runway_seconds,
        waits=money.waits,
        was_low=money.low_since is not None,
        low_runway_seconds=settings.SIGNER["low_runway_hours"] * HOUR_SECONDS,
    )
    money.low_since = (money.low_since or money.balance_at) if low else None
    with transaction.atomic():
        if not _write(money):
            return
        if low:
            _tell(money)
        else:
            close_incident(
                IncidentKind.LOW_BALANCE, str(money.lane), f"it has {about_ether(money.balance_wei)}"
            )
    if low:
        topping_up.begin(money.lane_id, money.balance_wei, waits=money.waits)


def _write(money: LaneMoney) -> bool:
    """Write what was seen, unless somebody has looked later; return whether it was written."""
    earlier = Q(balance_at__isnull=True) | Q(balance_at__lt=money.balance_at)
    seen = {name: getattr(money, name) for name in SEEN}
    return LaneMoney.objects.filter(earlier, pk=money.pk).update(**seen) == 1


def _tell(money: LaneMoney) -> None:
    """Tell people once, unless the lane is just being filled up. Joins the caller's transaction."""
    assert money.low_since is not None
    assert money.balance_at is not None
    is_new = money.balance_at - money.low_since < TOP_UP_PATIENCE
    rule = TopUp.objects.filter(lane=money.lane, active=True).first()
    if rule is not None and is_new and topping_up.can_help(rule, money):
        return
    text = f"{money.lane.address} on {money.lane.chain}: {words(money)}. Send it money; what waits goes on by itself."
    if rule is not None:
        text += " Its top-up has not helped; its page says why."
    open_incident(IncidentKind.LOW_BALANCE, str(money.lane), text, lane=money.lane)
    # The drain may have told them before, of what it could not pay.
    told = Incident.objects.filter(kind=IncidentKind.LOW_BALANCE, lane=money.lane, closed_at__isnull=True)
    LaneMoney.objects.filter(pk=money.pk).update(told_at=told.values("opened_at")[:1])


def goes_on(lane: Lane) -> None:
    """Close the incident of a lane whose transactions go on, unless it is still low: then the next look decides.

    Joins the caller's transaction.
    """
    if not LaneMoney.objects.filter(lane=lane, low_since__isnull=False).exists():
        close_incident(IncidentKind.LOW_BALANCE, str(lane), "the lane goes on")


def words(money: LaneMoney) -> str:
    """Return what a lane has and how long that lasts, as a person says it."""
    if money.balance_wei is None:
        return "not looked at yet"
    parts = [f"{about_ether(money.balance_wei)} left"]
    if money.runway_seconds is not None:
        parts.append(f"lasts {duration(money.runway_seconds)} at the recent rate")
    if money.waits:
        parts.append("a transaction waits for money")
    return ", ".join(parts)


def about_ether(wei: int) -> str:
    """Return an amount with as many digits as a person reads, rounded down; a little is not nothing."""
    shown = wei - wei % ABOUT_WEI
    return ether(shown) if shown or not wei else f"less than {ether(ABOUT_WEI)}"


def duration(seconds: int) -> str:
    """Return about how long that is."""
    if seconds < 120:
        return "less than two minutes"
    for name, length, most in (("minutes", 60, 7200), ("hours", 3600, 172_800)):
        if seconds < most:
            return f"about {seconds // length} {name}"
    return f"about {seconds // DAY_SECONDS} days" if seconds < 1000 * DAY_SECONDS else "for years"
