"""What limits have left, exact under any number of callers: whoever looks holds the purse until its commit.

To be called in the transaction that intends the signature. When that is rolled back nothing was spent; when it comes to
nothing later, what was spent is given back, once nothing else was signed, or is to be, on the same subject.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta

from django.db.models import F, QuerySet
from django.db.models.functions import Now

from keyguard.errors import LimitExceededError
from keyguard.policies.judging import Charge
from keyguard.policies.models import Purse, Spending

Amounts = dict[str, int]  # by subject
Uses = Counter[str]


def purpose(subject: str, slot: str) -> str:
    """Return the name under which a request counts: with another nonce it can have its effect once more."""
    return f"{subject} {slot}" if slot else subject


def spend(charges: Sequence[tuple[str, Charge]]) -> None:
    """Take what requests need from their limits, or raise LimitExceededError. charges: each with its subject.

    A subject counts once in a limit, with the most that it ever asked for.
    """
    wanted: dict[tuple[str, str], tuple[Charge, Amounts, Uses]] = {}
    for subject, charge in charges:
        _, amounts, uses = wanted.setdefault(
            (charge.rule, charge.bucket), (charge, defaultdict(int), Counter())
        )
        amounts[subject] = max(amounts[subject], charge.amount)
        uses[subject] += 1
    # In one order: two batches that need the same purses would otherwise wait for each other for ever.
    for (rule, bucket), (charge, amounts, uses) in sorted(wanted.items(), key=lambda item: item[0]):
        _take(_locked(rule, bucket), charge, amounts, uses)


def give_back(subjects: Collection[str]) -> None:
    """Give back what was spent for requests that came to nothing. subjects: one for each of them."""
    for subject, times in Counter(subjects).items():
        spent = Spending.objects.filter(subject=subject)
        if spent.update(uses=F("uses") - times):
            spent.filter(uses__lte=0).delete()


def left(rule: str, bucket: str, at_most: int, seconds: int) -> int:
    """Return what is left of a limit now, for people."""
    purse = Purse.objects.filter(rule=rule, bucket=bucket).first()
    return at_most if purse is None else max(0, at_most - sum(_recent(purse, seconds).values()))


def _locked(rule: str, bucket: str) -> Purse:
    names = {"rule": rule, "bucket": bucket[:300]}
    Purse.objects.bulk_create([Purse(**names)], ignore_conflicts=True)
    return Purse.objects.select_for_update().get(**names)


def _take(purse: Purse, charge: Charge, amounts: Amounts, uses: Uses) -> None:
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
        Spending(purse=purse, subject=subject, amount=amount, uses=uses[subject])
        for subject, amount in amounts.items()
        if subject not in known
    )
    for subject in amounts.keys() & known.keys():
        most = max(amounts[subject], known[subject])
        Spending.objects.filter(purse=purse, subject=subject).update(
            amount=most, uses=F("uses") + uses[subject]
        )


def _recent(purse: Purse, seconds: int) -> Amounts:
    """Return what was spent within the window, which moves with the database's clock."""
    return _amounts(Spending.objects.filter(purse=purse, at__gt=Now() - timedelta(seconds=seconds)))


def _amounts(rows: "QuerySet[Spending]") -> Amounts:
    return {subject: amount or 0 for subject, amount in rows.values_list("subject", "amount")}
