"""What a person enters about a lane's money: amounts in ether, and why."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget

import keyguard
from keyguard.models import Key
from keyguard.states import DEFAULT_TENANT, KeyState
from signer.admin.ether import EtherField
from signer.admin.reasoned import ReasonedForm
from signer.models import Lane, LaneMoney, TopUp
from signer.sentences import ether


class LaneMoneyForm(ReasonedForm):
    """When people are told."""

    low_balance_wei = EtherField(
        label="Told below, in ether",
        required=False,
        help_text="Empty: people are told when it lasts less than DALP_SIGNER_LOW_RUNWAY_HOURS at the recent rate.",
    )

    class Meta:
        model = LaneMoney
        fields = ("lane", "low_balance_wei")


class TopUpForm(ReasonedForm):
    """From where a lane is filled up, to which level, how much in a day."""

    treasury = forms.ChoiceField(
        label="Treasury",
        widget=UnfoldAdminSelectWidget(),
        help_text="The key that pays. Its own lane on the same chain sends the money, so its policy must allow that.",
    )
    level_wei = EtherField(
        label="Fill up to, in ether",
        help_text="When the lane is low, it is sent what is missing to this.",
    )
    daily_cap_wei = EtherField(
        label="At most in a day, in ether",
        help_text="From midnight to midnight UTC. Whatever goes wrong, no more than this leaves the treasury for this lane.",
    )

    class Meta:
        model = TopUp
        fields = ("lane", "treasury", "level_wei", "daily_cap_wei", "active")
        help_texts = {"active": "Off: nothing is transferred. A transfer that is under way is seen through."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "treasury" in self.fields:
            keys = (
                Key.objects.filter(state=KeyState.ACTIVE, tenant=DEFAULT_TENANT)
                .order_by("alias")
                .values_list("alias", "address")
            )
            # Nothing is chosen beforehand: the first key that comes along is not to pay for others.
            choices = [("", "---------"), *((alias, f"{alias} ({address})") for alias, address in keys)]
            if self.instance.treasury and self.instance.treasury not in dict(choices):
                choices.append((self.instance.treasury, f"{self.instance.treasury} (can't sign now)"))
            self.fields["treasury"].choices = choices  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Refuse what could never help, or would send money round in circles."""
        cleaned = super().clean() or self.cleaned_data
        lane: Lane | None = cleaned.get("lane") or getattr(self.instance, "lane", None)
        level, cap, treasury = (cleaned.get(name) for name in ("level_wei", "daily_cap_wei", "treasury"))
        if level == 0:
            self.add_error("level_wei", "More than nothing.")
        if cap == 0:
            self.add_error("daily_cap_wei", "More than nothing; to stop it, switch it off.")
        money: LaneMoney | None = getattr(lane, "money", None)
        threshold = money.low_balance_wei if money else None
        if level and threshold and level <= threshold:
            self.add_error(
                "level_wei", f"The lane counts as low below {ether(threshold)}: fill it up to more."
            )
        if lane and treasury and (loop := _loop(lane, treasury)):
            self.add_error("treasury", loop)
        return cleaned


def _loop(lane: Lane, treasury: str) -> str:
    """Return why this treasury would be paid by the lane that it pays, or nothing."""
    seen: list[str] = []
    while treasury not in seen:
        seen.append(treasury)
        try:
            address = keyguard.find_key(treasury).address
        except keyguard.KeyNotFoundError:
            return ""
        if address == lane.address:
            way = " ← ".join(seen)
            return (
                f"The lane would be filled up from itself: {way}."
                if len(seen) > 1
                else "This is the lane's own key."
            )
        onward = TopUp.objects.filter(lane__address=address, lane__chain=lane.chain_id, active=True).first()
        if onward is None:
            return ""
        treasury = onward.treasury
    return ""
