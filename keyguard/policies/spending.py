"""What limits have left, exact under any number of callers: whoever looks holds the purse until its commit.

To be called in the transaction that signs. When that is rolled back nothing was spent.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from django.db.models import QuerySet
from django.db.models.functions import Now

from keyguard.errors import LimitExceededError
from keyguard.policies.judging import Charge
from keyguard.policies.models import Purse, Spending

Amounts = dict[str, int]  # by subject


def spend(charges: Sequence[tuple[str, Charge]]) -> None:
    """Take what requests need from their limits, or raise LimitExceededError. charges: each with its subject.

    A subject counts once in a limit, with the most that it ever asked for.
    """
    wanted: dict[tuple[str, str], tuple[Charge, Amounts]] = {}
    for subject, charge in charges:
        _, amounts = wanted.setdefault((charge.rule, charge.bucket), (charge, defaultdict(int)))
        amounts[subject] = max(amounts[subject], charge.amount)
    # In one order: two batches that need the same purses would otherwise wait for each other for ever.
    for (rule, bucket), (charge, amounts) in sorted(wanted.items(), key=lambda item: item[0]):
        _take(_locked(rule, bucket), charge, amounts)


def left(rule: str, bucket: str, at_most: int, seconds: int) -> int:
    """Return what is left of a limit now, for people."""
    purse = Purse.objects.filter(rule=rule, bucket=bucket).first()
    return at_most if purse is None else max(0, at_most - sum(_recent(purse, seconds).values()))


def _locked(rule: str, bucket: str) -> Purse:
    names = {"rule": rule, "bucket": bucket[:300]}
    Purse.objects.bulk_create([Purse(**names)], ignore_conflicts=True)
    return Purse.objects.select_for_update().get(**names)


def _take(purse: Purse, charge: Charge, amounts: Amounts) -> None:
    recent = _recent(purse, charge.seconds)
    used = sum(recent.values())
    for subject, amount in amounts.items():
        used += max(0, amount - recent.get(subject, 0))
        if used > charge.at_most:
            raise LimitExceededError(
                subject,
                f"{charge.rule}: {amount} would be more than is left of {charge.at_most} in {charge.seconds} seconds",
            )
    known = _amounts(Spending.objects.filter(purse=purse, subject__in=amounts))
    Spending.objects.bulk_create(
        Spending(purse=purse, subject=subject, amount=amount)
        for subject, amount in amounts.items()
        if subject not in known
    )
    for subject in amounts.keys() & known.keys():
        if amounts[subject] > known[subject]:
            Spending.objects.filter(purse=purse, subject=subject).update(amount=amounts[subject])


def _recent(purse: Purse, seconds: int) -> Amounts:
    """Return what was spent within the window, which moves with the database's clock."""
    return _amounts(Spending.objects.filter(purse=purse, at__gt=Now() - timedelta(seconds=seconds)))


def _amounts(rows: "QuerySet[Spending]") -> Amounts:
    return {subject: amount or 0 for subject, amount in rows.values_list("subject", "amount")}
