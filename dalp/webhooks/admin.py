"""Webhooks and their outboxes in the console: is a receiver well, what waits since when, why; and what may be done."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget

from dalp.webhooks import registering, replaying
from dalp.webhooks.models import Delivery, DeliveryState, Webhook
from dalp.webhooks.outbox import IS_BEHIND, with_counts
from dalp.webhooks.sealing import SecretMalformedError, key_bytes
from signer.cells import alarm
from signer.sentences import ago
from workflows.admin.acting import Acting, ReasonForm, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, link

STATE_COLOURS.update(
    {"WELL": "success", "DISABLED": "warning", "AWAY": "danger", "FAILING": "danger"}
    | {"DELIVERED": "success", "DEAD": "danger"}
)


class SecretForm(ReasonForm):
    """A secret that the receiver's owner has made. What is typed is never shown again."""

    secret = forms.CharField(
        widget=UnfoldAdminPasswordWidget(),
        help_text='echo "whsec_$(openssl rand -base64 32)" makes one',
    )
    field_order = ("secret", "reason")

    def clean_secret(self) -> str:
        """Refuse what is no secret, without a word of it."""
        secret = str(self.cleaned_data["secret"]).strip()
        try:
            key_bytes(secret)
        except SecretMalformedError as error:
            raise forms.ValidationError(f"It {error}.") from None
        return secret


def on(model: type[Any], act: Any) -> Any:
    """Have an act on a row be called with its key."""
    return lambda pk, **given: act(model.objects.get(pk=pk), **given)


def health(webhook: Any) -> str:
    """Return in a word how a receiver is."""
    if not webhook.enabled:
        return "DISABLED"
    if webhook.paused_until is not None and webhook.paused_until > timezone.now():
        return "AWAY"
    last = webhook.delivered_at or webhook.created_at
    is_failing = webhook.last_error_at is not None and webhook.last_error_at > last
    return "FAILING" if is_failing or webhook.dead else "WELL"


@admin.register(Webhook)
class WebhookAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Who is told of transactions, and whether it takes what it is told. They are registered over REST."""

    list_display = (
        "shown_host", "shown_health", "shown_pending", "shown_dead", "shown_delivered", "shown_error",
    )  # fmt: skip
    list_filter = ("enabled",)
    search_fields = ("description", "id__iexact")
    search_help_text = "words of the description, webhook id"
    actions_detail = ("disable", "enable", "send_test", "replay_dead", "rotate")
    fieldsets = (
        (
            "Now",
            {"fields": ("shown_health", "shown_why", "shown_pending", "shown_dead", "shown_delivered", "shown_error")},
        ),
        ("What it is", {"fields": ("shown_host", "shown_events", "shown_secret", "shown_made", "id")}),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        """Return the webhooks with what lies in their outboxes."""
        return with_counts(super().get_queryset(request))

    @display(description="Receiver", ordering="description")
    def shown_host(self, webhook: Webhook) -> str:
        """Return the host; the rest of the URL may be a key."""
        return format_html(
            '<code class="text-xs">{}</code><br>{}', webhook.host, webhook.description or "no description"
        )

    @display(description="State")
    def shown_health(self, webhook: Any) -> str:
        return badge(health(webhook))

    @display(description="Because")
    def shown_why(self, webhook: Any) -> str:
        if not webhook.enabled:
            return alarm(webhook.disabled_because)
        if webhook.paused_until is not None and webhook.paused_until > timezone.now():
            times = f"{webhook.failures} times" if webhook.failures > 1 else "once"
            return f"it was not there {times}, and is tried again at {webhook.paused_until:%H:%M:%S} UTC"
        return "-"

    @display(description="Waiting")
    def shown_pending(self, webhook: Any) -> str:
        if not webhook.pending:
            return "nothing"
        text = f"{webhook.pending}, the oldest for {ago(webhook.pending_since)}"
        return _listed(webhook, DeliveryState.PENDING, text)

    @display(description="Given up")
    def shown_dead(self, webhook: Any) -> str:
        return _listed(webhook, DeliveryState.DEAD, str(webhook.dead)) if webhook.dead else "nothing"

    @display(description="Last taken", ordering="delivered_at")
    def shown_delivered(self, webhook: Webhook) -> str:
        return f"{ago(webhook.delivered_at)} ago" if webhook.delivered_at else "never"

    @display(description="Last error", ordering="last_error_at")
    def shown_error(self, webhook: Webhook) -> str:
        if webhook.last_error_at is None:
            return "-"
        return format_html(
            '<div style="min-width: 14rem; white-space: normal">{}<br><span class="text-xs">{} ago</span></div>',
            webhook.last_error,
            ago(webhook.last_error_at),
        )

    @display(description="Is told")
    def shown_events(self, webhook: Webhook) -> str:
        return ", ".join(webhook.events)

    @display(description="Secret")
    def shown_secret(self, webhook: Webhook) -> str:
        if webhook.previous_until is None or webhook.previous_until < timezone.now():
            return "shown to nobody after it was made"
        return f"replaced; the one before signs, too, until {webhook.previous_until:%Y-%m-%d %H:%M} UTC"

    @display(description="Registered")
    def shown_made(self, webhook: Webhook) -> str:
        return f"{webhook.created_at:%Y-%m-%d %H:%M} UTC by {webhook.created_by or '-'}"

    def _may(self, request: HttpRequest, object_id: Any, **where: Any) -> bool:
        allowed = bool(request.user.has_perm("webhooks.change_webhook"))
        return allowed and row_at(Webhook, object_id).filter(**where).exists()

    def has_enabled_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id, enabled=True)

    def has_disabled_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Whether it is stopped, or left alone for a while, so that it can be started."""
        return self._may(request, object_id, enabled=False) or self._may(
            request, object_id, paused_until__isnull=False
        )

    def has_dead_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        found = Delivery.objects.filter(webhook__in=row_at(Webhook, object_id), state=DeliveryState.DEAD)
        return self._may(request, object_id) and found.exists()

    def has_operate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self._may(request, object_id)

    @action(description="Disable", url_path="disable", icon="pause", permissions=["enabled"])
    def disable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Tell it nothing."""
        text = "Nothing more is sent to it. What happens until it is enabled again is not kept for it."
        act = on(Webhook, registering.disable)
        return self.ask(request, object_id, "Disable the webhook", text, act, danger=True)

    @action(description="Enable now", url_path="enable", icon="play_arrow", permissions=["disabled"])
    def enable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Go on with it now."""
        row = self.row(request, object_id)
        text = "What waits is sent now, in order, and what happens from now on."
        facts = [("It stands because", row.disabled_because or row.last_error)]
        act = on(Webhook, registering.enable)
        return self.ask(request, object_id, "Enable the webhook", text, act, facts=facts)

    @action(description="Send a test", url_path="test", icon="send", permissions=["operate"])
    def send_test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have an event for a trial delivered."""
        text = "An event of the type webhook.test is sent to it, signed like any other. It says nothing of any transaction."
        return self.ask(request, object_id, "Send a test", text, on(Webhook, replaying.send_test))

    @action(description="Replay what was given up", url_path="replay", icon="replay", permissions=["dead"])
    def replay_dead(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have everything sent that it did not take."""
        row = self.row(request, object_id)
        text = "They are sent again, under the same ids and with the same bytes. The receiver may know of later states by now."
        facts = [("Given up", str(row.dead))]
        act = on(Webhook, replaying.replay_dead)
        return self.ask(request, object_id, "Replay what was given up", text, act, facts=facts)

    @action(description="Set another secret", url_path="secret", icon="key", permissions=["operate"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Replace the secret by one that the receiver's owner has made."""
        text = "For 24 hours deliveries are signed with both. No page shows a secret: who wants one made here calls rotate-secret of the API."
        act, form = on(Webhook, registering.rotate), SecretForm(request.POST or None)
        return self.ask(request, object_id, "Set another secret", text, act, form)


def _listed(webhook: Webhook, state: DeliveryState, text: str) -> str:
    page = reverse("admin:webhooks_delivery_changelist")
    return format_html(
        '<a class="text-primary-600 underline" href="{}?webhook__id__exact={}&state__exact={}">{}</a>',
        page, webhook.pk, state, text,
    )  # fmt: skip


@admin.register(Delivery)
class DeliveryAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What each receiver was told, and what it is still to be told."""

    list_display = (
        "shown_event", "shown_webhook", "shown_transaction", "shown_state", "attempts", "shown_when", "shown_error",
    )  # fmt: skip
    list_filter = ("state", "type", "webhook")
    list_select_related = ("webhook",)
    search_fields = ("message_id__iexact", "transaction__id__iexact")
    search_help_text = "delivery id, transaction id"
    ordering = ("-id",)
    show_full_result_count = False
    actions_detail = ("replay",)
    fields = readonly_fields = (
        "shown_event", "shown_webhook", "shown_transaction", "shown_state", "attempts", "shown_when", "shown_error",
        "body", "created_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        """Return the deliveries, each with whether another one has to go before it."""
        deliveries: QuerySet[Delivery] = super().get_queryset(request)
        return deliveries.annotate(is_behind=IS_BEHIND)

    @display(description="Event", ordering="type")
    def shown_event(self, delivery: Delivery) -> str:
        return format_html('{}<br><code class="text-xs">{}</code>', delivery.type, delivery.message_id)

    @display(description="Webhook")
    def shown_webhook(self, delivery: Delivery) -> str:
        return link("admin:webhooks_webhook_change", delivery.webhook_id, delivery.webhook.host)

    @display(description="Transaction")
    def shown_transaction(self, delivery: Delivery) -> str:
        pk = delivery.transaction_id
        return "-" if pk is None else link("admin:signer_transaction_change", pk, str(pk))

    @display(description="State", ordering="state")
    def shown_state(self, delivery: Delivery) -> str:
        return badge(delivery.state)

    @display(description="When", ordering="next_at")
    def shown_when(self, delivery: Any) -> str:
        if delivery.settled_at is not None:
            return f"{delivery.settled_at:%Y-%m-%d %H:%M:%S} UTC"
        webhook, now = delivery.webhook, timezone.now()
        if not webhook.enabled:
            return "waits: the webhook is disabled"
        if delivery.is_behind:
            return "waits for the event before it"
        at = max(delivery.next_at, webhook.paused_until or delivery.next_at)
        return "due" if at <= now else f"at {at:%Y-%m-%d %H:%M:%S} UTC"

    @display(description="Last error", ordering="last_error")
    def shown_error(self, delivery: Delivery) -> str:
        return delivery.last_error or "-"

    def has_replay_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may have it sent again."""
        allowed = request.user.has_perm("webhooks.change_delivery")
        return bool(allowed) and row_at(Delivery, object_id).exists()

    @action(description="Replay", url_path="replay", icon="replay", permissions=["replay"])
    def replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Have it sent now."""
        text = "It is sent now, under the same id and with the same bytes. The receiver may know of later states by now."
        return self.ask(request, object_id, "Replay the delivery", text, on(Delivery, replaying.replay))
