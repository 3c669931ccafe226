"""What people may do to lanes and transactions, as pages that ask why."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from unfold.decorators import action
from unfold.widgets import UnfoldAdminIntegerFieldWidget

from signer import control, resync
from signer.admin.ether import GweiField
from signer.errors import NotPossibleError, SignerError
from signer.fees import Fees
from signer.flights import attempts_of, fees_of
from signer.models import Lane, Transaction
from signer.sentences import gwei, why
from signer.states import LaneState, SubState, TransactionState
from workflows import WorkflowError
from workflows.admin.acting import Acting, ReasonForm, row_at

LOST_ITS_NONCE = {"state": TransactionState.BROADCASTING, "sub_state": SubState.NONCE_FOREIGN}


class RefusedError(WorkflowError):
    """The signer's refusal, as the form shows it."""

    code = NotPossibleError.code
    remedy = "Nothing was changed."

    def __init__(self, error: SignerError) -> None:
        advice = error.advice if isinstance(error, NotPossibleError) else error.remedy
        super().__init__(f"{error.message}. {advice}".rstrip(". "))


def on(model: type[Any], act: Callable[..., Any]) -> Callable[..., Any]:
    """Have an act on a row be called with its key, and refuse as the form can show it."""

    return refusing(lambda pk, **given: act(model._default_manager.get(pk=pk), **given))


def refusing(act: Callable[..., Any]) -> Callable[..., Any]:
    """Have an act refuse as the form can show it."""

    def carried_out(*args: Any, **given: Any) -> Any:
        try:
            return act(*args, **given)
        except SignerError as error:
            raise RefusedError(error) from error

    return carried_out


class OfferForm(ReasonForm):
    """How high to go; empty: as high as a node asks, or the market, whichever is more."""

    max_fee_gwei = GweiField(required=False, label="Fee, gwei per gas")
    tip_gwei = GweiField(required=False, label="Tip, gwei per gas")
    blob_fee_gwei = GweiField(required=False, label="Fee for blobs, gwei per blob gas")
    field_order = ("max_fee_gwei", "tip_gwei", "blob_fee_gwei", "reason")

    def __init__(self, *args: Any, least: Fees, **kwargs: Any) -> None:
        """least: what a node takes in place of what is out."""
        super().__init__(*args, **kwargs)
        self.fields[
            "max_fee_gwei"
        ].help_text = f"A node takes no less than {gwei(least.max_fee_per_gas_wei)}."
        self.fields["tip_gwei"].help_text = f"No less than {gwei(least.max_priority_fee_per_gas_wei)}."
        self.fields[
            "blob_fee_gwei"
        ].help_text = (
            f"No less than {gwei(least.max_fee_per_blob_gas_wei)}, which is what is offered when it is empty."
        )
        if not least.max_fee_per_blob_gas_wei:
            del self.fields["blob_fee_gwei"]

    def clean(self) -> dict[str, Any]:
        """Turn them into an offer, or refuse half of one."""
        given = super().clean() or self.cleaned_data
        fee, tip = given.pop("max_fee_gwei", None), given.pop("tip_gwei", None)
        blob_fee = given.pop("blob_fee_gwei", None)
        if (fee is None) != (tip is None):
            raise forms.ValidationError("Give both, or neither.")
        if fee is None and blob_fee is not None:
            raise forms.ValidationError("Give the fee and the tip beside the fee for blobs.")
        return {**given, "offer": None if fee is None or tip is None else Fees(fee, tip, blob_fee or 0)}


def offered(fees: Fees) -> str:
    """Return an offer as people read it."""
    blobs = f", and {gwei(fees.max_fee_per_blob_gas_wei)} for blobs" if fees.max_fee_per_blob_gas_wei else ""
    tip = gwei(fees.max_priority_fee_per_gas_wei)
    return f"{gwei(fees.max_fee_per_gas_wei)} gwei, {tip} of it as the tip{blobs}"


class RangeForm(ReasonForm):
    """Which nonces."""

    first = forms.IntegerField(min_value=0, widget=UnfoldAdminIntegerFieldWidget(), label="First nonce")
    last = forms.IntegerField(min_value=0, widget=UnfoldAdminIntegerFieldWidget(), label="Last nonce")
    field_order = ("first", "last", "reason")


class LaneActs(Acting):
    """Pause, drain, resume, compare with the chain, send again."""

    actions_detail = (
        "pause",
        "drain",
        "resume",
        "resync",
        "resend",
    )  # the last two: not of a lane in custody

    def has_operate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return bool(request.user.has_perm("signer.change_lane"))

    def has_nonces_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Whether there are nonces and bytes here to see to: a custody's are its own."""
        own = row_at(Lane, object_id).filter(in_custody=False)
        return self.has_operate_permission(request) and own.exists()

    def _may(self, request: HttpRequest, object_id: Any, *states: LaneState) -> bool:
        return (
            self.has_operate_permission(request) and row_at(Lane, object_id).filter(state__in=states).exists()
        )

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, LaneState.ACTIVE, LaneState.DRAINING)

    def has_drain_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, LaneState.ACTIVE, LaneState.PAUSED)

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, LaneState.PAUSED, LaneState.DRAINING, LaneState.BLOCKED)

    @action(description="Pause", url_path="pause", icon="pause", permissions=["pause"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Give out no more nonces."""
        text = "No more nonces are given out until it is resumed. What has one is seen through."
        return self.ask(request, object_id, "Pause the lane", text, on(Lane, control.pause_lane))

    @action(description="Drain", url_path="drain", icon="hourglass_bottom", permissions=["drain"])
    def drain(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Pause it when nothing is in flight."""
        text = "No more nonces are given out, and the lane is paused as soon as nothing is in flight: before its key is changed."
        return self.ask(request, object_id, "Drain the lane", text, on(Lane, control.drain_lane))

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["resume"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Give out nonces again."""
        lane = self.row(request, object_id)
        text = "Nonces are given out again. What blocked the lane blocks it again, where it is still so."
        facts = [("It stands because", lane.state_reason)]
        act = on(Lane, control.resume_lane)
        return self.ask(request, object_id, "Resume the lane", text, act, facts=facts)

    @action(description="Compare with the chain", url_path="resync", icon="sync", permissions=["nonces"])
    def resync(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what differs between lane and chain, and correct the next nonce when it is confirmed."""
        lane = self.row(request, object_id)
        try:
            found = resync.lane_difference(lane)
        except SignerError as error:
            facts = [("The chain gives no answer", f"{error.message}. {error.remedy}")]
        else:
            facts = [
                ("Next nonce here", str(found.next_nonce)),
                ("Mined on the chain", str(found.chain_latest)),
                ("Mined or in the node's pool", str(found.chain_pending)),
                (
                    "Highest nonce given here",
                    "none" if found.highest_given is None else str(found.highest_given),
                ),
                ("In flight", str(found.in_flight)),
                ("Next nonce after this", str(found.proposed_next_nonce)),
                ("What it means", " ".join(found.notes)),
            ]
        text = "Sets the next nonce to what is proposed below, never beneath one that was given, and puts a blocked lane back to work."
        act = on(Lane, resync.resync_lane)
        return self.ask(request, object_id, "Compare with the chain, and correct", text, act, facts=facts)

    @action(description="Send again", url_path="resend", icon="redo", permissions=["nonces"])
    def resend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have committed bytes sent again."""
        text = "The same bytes of what is out are sent again now. Nothing is signed anew, so nothing can be executed twice."
        act, form = on(Lane, control.resend_transactions), RangeForm(request.POST or None)
        return self.ask(request, object_id, "Send the same bytes again", text, act, form)


class TransactionActs(Acting):
    """Cancel, speed up, and what becomes of a transaction that lost its nonce to a stranger."""

    actions_detail = ("cancel", "speed_up", "requeue", "give_up")

    def _may(self, request: HttpRequest, object_id: Any, **where: Any) -> bool:
        allowed = bool(request.user.has_perm("signer.change_transaction"))
        return allowed and row_at(Transaction, object_id).filter(**where).exists()

    def has_cancel_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return (
            self._may(request, object_id, settled_at__isnull=True, noop_outcome="")
            and not self._may(request, object_id, state=TransactionState.CONFIRMING)
            and not self._may(request, object_id, state=TransactionState.BROADCASTING, lane__in_custody=True)
        )

    def has_speed_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, state=TransactionState.BROADCASTING, lane__in_custody=False)

    def has_foreign_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, **LOST_ITS_NONCE, lane__in_custody=False)

    def has_give_up_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, **LOST_ITS_NONCE) or self._may(
            request, object_id, state=TransactionState.SIGNING, sub_state=SubState.CUSTODY_ALTERED
        )

    @action(description="Cancel", url_path="cancel", icon="cancel", permissions=["cancel"])
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have it not executed."""
        row = self.row(request, object_id)
        if row.state == TransactionState.SIGNING:
            text = "Its custody is asked to call it off. If it has been sent by then, it is executed."
        elif row.nonce is None:
            text = "It has no nonce yet: it is cancelled at once."
        else:
            text = "A transaction that does nothing is offered at its nonce. The chain decides which of the two it takes."
        act, facts = on(Transaction, control.cancel_transaction), [("Now", why(row))]
        return self.ask(request, object_id, "Cancel the transaction", text, act, danger=True, facts=facts)

    @action(description="Speed up", url_path="speed-up", icon="speed", permissions=["speed"])
    def speed_up(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Raise its fees now."""
        row = self.row(request, object_id)
        offers, least = [fees_of(attempt) for attempt in attempts_of([row])], control.least_offer(row)
        facts = [
            ("Offered so far", "; ".join(offered(each) for each in offers)),
            ("Ceiling", f"{gwei(row.chain.max_fee_per_gas_wei)} gwei"),
        ]
        more = "twice as much of all three" if least.max_fee_per_blob_gas_wei else "an eighth more"
        text = f"It is replaced at its nonce by the same with higher fees: {more} or the market, or what you offer here."
        act, form = (
            on(Transaction, control.speed_up_transaction),
            OfferForm(request.POST or None, least=least),
        )
        return self.ask(request, object_id, "Speed the transaction up", text, act, form, facts=facts)

    @action(description="Give it another nonce", url_path="requeue", icon="replay", permissions=["foreign"])
    def requeue(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Put it back to wait for another nonce."""
        text = "A stranger's transaction has used its nonce. It is proved anew, at this moment, that it can never be executed; then it waits for another."
        return self.ask(
            request, object_id, "Give it another nonce", text, on(Transaction, control.requeue_transaction)
        )

    @action(description="Give it up", url_path="give-up", icon="block", permissions=["give_up"])
    def give_up(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """End it as failed."""
        text = "It ends as failed, and the run that asked for it is told so. It was never executed."
        if self.row(request, object_id).sub_state == SubState.CUSTODY_ALTERED:
            text = "It ends as failed, and the run that asked for it is told so. What its custody sent instead, stays as it is."
        act = on(Transaction, control.give_up_transaction)
        return self.ask(request, object_id, "Give the transaction up", text, act, danger=True)
