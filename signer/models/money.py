"""What lanes have, what they spend, and how they are filled up."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from keyguard.fields import Uint256Field
from signer.fields import WeiField
from signer.models.transactions import Lane, Transaction


class LaneMoney(models.Model):
    """What a lane's address has and how long it lasts, as last looked at; and when people want to be told."""

    lane = models.OneToOneField(Lane, on_delete=models.CASCADE, primary_key=True, related_name="money")
    # Decided by a person. NULL: told when it does not last as long as the settings say.
    low_balance_wei = Uint256Field(null=True, blank=True)
    balance_wei = Uint256Field(null=True, editable=False)
    balance_at = models.DateTimeField(null=True, editable=False)
    spent_hour_wei = WeiField(default=0, editable=False)
    spent_day_wei = WeiField(default=0, editable=False)
    runway_seconds = models.BigIntegerField(null=True, editable=False)  # NULL: nothing is spent
    waits = models.BooleanField(default=False, editable=False)  # something stands still for want of money
    low_since = models.DateTimeField(null=True, blank=True, editable=False)  # NULL: it is not low
    told_at = models.DateTimeField(null=True, editable=False)  # when people were told last

    class Meta:
        verbose_name = "balance"
        indexes = (
            models.Index(
                fields=["low_since"], name="signer_lane_money_low", condition=Q(low_since__isnull=False)
            ),
        )

    def __str__(self) -> str:
        return str(self.lane)


class Spending(models.Model):
    """What the settled transactions of a lane cost, by the ten minutes in which they were settled."""

    lane = models.ForeignKey(Lane, on_delete=models.CASCADE, related_name="spending")
    at = models.DateTimeField()  # the beginning of the ten minutes
    spent_wei = WeiField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["lane", "at"], name="signer_spending_lane_at_unique"),)

    def __str__(self) -> str:
        return f"{self.lane_id} {self.at:%Y-%m-%d %H:%M}"


class TopUp(models.Model):
    """How a lane is filled up from a treasury: to which level, and how much at most in a day (UTC)."""

    lane = models.OneToOneField(Lane, on_delete=models.PROTECT, related_name="top_up")
    treasury = models.CharField(max_length=100)  # the alias of the key that pays
    level_wei = WeiField()
    daily_cap_wei = WeiField()
    active = models.BooleanField(default=True)
    # What was taken from the cap of `day`. Written by a conditional UPDATE on what it was, see topping_up.
    day = models.DateField(null=True, editable=False)
    reserved_wei = WeiField(default=0, editable=False)
    # The transfer under way; at most one, whoever started it.
    transfer = models.ForeignKey(
        Transaction, on_delete=models.PROTECT, null=True, editable=False, related_name="+"
    )
    number = models.PositiveIntegerField(default=0, editable=False)  # of runs that were started
    run_id = models.UUIDField(null=True, editable=False)  # the last of them
    filled_at = models.DateTimeField(null=True, editable=False)
    filled_wei = Uint256Field(null=True, editable=False)
    created_by = models.CharField(max_length=150, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name = "top-up"

    def __str__(self) -> str:
        return f"top-up of {self.lane}"
