"""The operators' rules for the words of nodes, with a place to try them, and the words that no rule knows."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms.renderers import BaseRenderer
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from signer import acts, error_rules, unknown_texts
from signer.cells import Shown
from signer.error_rules import CACHE_SECONDS, OperatorRule, Reading
from signer.incidents import close_incident
from signer.models import ErrorRule, UnknownText
from signer.patterns import PatternError
from signer.rpc_errors import ErrorClass
from signer.sentences import ago
from signer.states import IncidentKind
from workflows.cells import ReadOnly, badge

SHOWN_TEXTS = 20
DANGERS = (
    "What happens after such an answer. When in doubt, AMBIGUOUS: nothing is lost by it. "
    "PERMANENT takes “never accepted” for granted: a no-op takes the nonce, and the transaction FAILS. Where the words "
    "mean otherwise, an operation fails that could have succeeded, and its no-op is paid for. "
    "KNOWN takes “the node has it” for granted: where the words mean otherwise, the transaction waits until it is sent "
    "again. No class can make a transaction execute twice: it keeps its nonce."
)


class TrialWidget(UnfoldAdminTextareaWidget):  # type: ignore[misc]
    """A text area with the button that tries the rule on it."""

    def render(
        self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: BaseRenderer | None = None
    ) -> SafeString:
        """Return the area and its button."""
        area = super().render(name, value, attrs, renderer)
        button = (
            '{}<button type="submit" name="_try" value="1" formnovalidate class="mt-2 px-3 py-2 rounded-default border '
            'border-primary-600 text-primary-600 font-medium">Try it, without saving</button>'
        )
        return format_html(button, area)


class ErrorRuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule, and a text to try it on. Tried, nothing is saved."""

    trial = forms.CharField(
        required=False,
        strip=False,
        max_length=20_000,
        label="Try it on",
        widget=TrialWidget(attrs={"rows": 4, "class": "font-mono text-xs"}),
        help_text="A node's message, or its whole JSON-RPC answer. Says what is made of it now, and with this rule.",
    )

    class Meta:
        model = ErrorRule
        fields = ("pattern", "error_class", "chain", "position", "active", "note")
        labels = {"error_class": "Means", "pattern": "Words"}
        widgets = {
            "pattern": UnfoldAdminTextInputWidget(attrs={"class": "font-mono", "autocomplete": "off"}),
            "note": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        }
        help_texts = {
            "pattern": "A regular expression that is found in the node's own message; case does not matter. Name the few "
            "words that only this refusal has. It may not match nearly everything, nor take long.",
            "error_class": DANGERS,
            "chain": "Empty: the nodes of all chains.",
            "position": "Lower is asked first; the first rule that fits counts. The built-in table comes after all of these.",
            "note": "Where the words come from, and how you know what they mean. It is kept with your name.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_trial = "_try" in self.data
        if self.is_trial and "note" in self.fields:
            self.fields["note"].required = False

    def is_valid(self) -> bool:
        """Return False for a trial: the form is shown again, with what came of it."""
        return super().is_valid() and not self.is_trial

    def clean_trial(self) -> str:
        """Hand the text to the row, whose page says what came of it."""
        trial: str = self.cleaned_data["trial"]
        self.instance.trial = trial
        return trial


def shown_reading(reading: Reading) -> str:
    return format_html("{} {}", badge(reading.error_class.value), reading.because)


@admin.register(ErrorRule)
class ErrorRuleAdmin(ModelAdmin):  # type: ignore[misc]
    """What operators say that words of nodes mean. Live in every process within seconds."""

    form = ErrorRuleForm
    list_display = ("shown_pattern", "shown_class", "shown_chain", "position", "active", "note", "shown_by")
    list_filter = ("active", "error_class", "chain")
    list_select_related = ("chain",)
    search_fields = ("pattern", "note")
    search_help_text = "words of the rule or of its note"
    ordering = ("position", "id")
    readonly_fields = ("shown_trial", "shown_known", "shown_by")
    rule = ("The rule", {"fields": ("pattern", "error_class", "chain", "position", "active", "note")})
    trying = ("Try it", {"fields": ("trial", "shown_trial", "shown_known")})
    history = ("Who", {"fields": ("shown_by",)})

    def get_fieldsets(self, request: HttpRequest, obj: ErrorRule | None = None) -> Any:
        """Return what to enter and where to try it, for those who may."""
        trying: Any = self.trying
        may_try = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        if not may_try:
            trying = (None, {"fields": ("shown_known",)})
        return (self.rule, trying, self.history) if obj else (self.rule, trying)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Return what a rule for an unknown text begins with (?text=ID)."""
        text_id = request.GET.get("text", "")
        text = UnknownText.objects.filter(pk=text_id).first() if text_id.isdigit() else None
        if text is None:
            return dict(super().get_changeform_initial_data(request))
        return {
            "pattern": unknown_texts.suggested_pattern(text.text),
            "chain": text.chain_id,
            "error_class": ErrorClass.AMBIGUOUS.value,
            "trial": text.sample,
        }

    def save_model(self, request: HttpRequest, obj: ErrorRule, form: Any, change: bool) -> None:
        """Store the rule, who changed what and why, and close what was told of texts that are known by now."""
        who = request.user.get_username()
        if change:
            obj.updated_by, obj.updated_at = who, timezone.now()
        else:
            obj.created_by = who
        super().save_model(request, obj, form, change)
        changed = {
            name: str(getattr(obj, name)) for name in form.changed_data if name not in ("trial", "note")
        }
        self._note(who, "edit_rule" if change else "add_rule", obj, changed)
        closed = unknown_texts.close_known(f"{obj} knows it", who)
        told = f" Closed {closed} incident{'s' * (closed > 1)} about words that it knows." if closed else ""
        messages.info(request, f"Live in every process within {CACHE_SECONDS:.0f} seconds.{told}")

    def delete_model(self, request: HttpRequest, obj: ErrorRule) -> None:
        """Delete the rule, on record."""
        self._note(request.user.get_username(), "delete_rule", obj, {"error_class": obj.error_class})
        super().delete_model(request, obj)

    def get_actions(self, request: HttpRequest) -> Any:
        """Return the actions without deletion, which goes one at a time."""
        found = super().get_actions(request).items()
        return {name: choice for name, choice in found if name != "delete_selected"}

    @staticmethod
    def _note(who: str, verb: str, rule: ErrorRule, changed: dict[str, str]) -> None:
        acts.note(who, verb, rule.note, details={"subject": str(rule), "changed": changed})
        error_rules.forget()

    @display(description="Words", ordering="pattern")
    def shown_pattern(self, rule: ErrorRule) -> str:
        style = "overflow-wrap: anywhere; white-space: normal"
        return format_html('<code class="text-xs" style="{}">{}</code>', style, rule.pattern)

    @display(description="Means", ordering="error_class")
    def shown_class(self, rule: ErrorRule) -> str:
        return badge(rule.error_class)

    @display(description="Chain", ordering="chain")
    def shown_chain(self, rule: ErrorRule) -> str:
        return str(rule.chain or "all")

    @display(description="By")
    def shown_by(self, rule: ErrorRule) -> str:
        made = f"{rule.created_by}, {rule.created_at:%Y-%m-%d %H:%M}"
        return (
            f"{made}; changed by {rule.updated_by}, {rule.updated_at:%Y-%m-%d %H:%M}"
            if rule.updated_at
            else made
        )

    @display(description="What came of it")
    def shown_trial(self, rule: ErrorRule) -> str:
        """Return what is made of the tried text without this rule as it stands here, and with it."""
        trial = getattr(rule, "trial", "")
        if not trial.strip():
            return "Paste a text and try it: nothing is saved by that."
        now = error_rules.read_pasted(trial, _for(rule, error_rules.read_rules()))
        then = error_rules.read_pasted(trial, _for(rule, _edited(rule)))
        return format_html(
            '<div class="mb-2">The words that count: <code>{}</code></div><div class="mb-2">As it is now: {}</div>'
            '<div class="font-semibold">With this rule: {}</div>',
            now.message,
            shown_reading(now),
            shown_reading(then),
        )

    @display(description="Unknown texts that it knows")
    def shown_known(self, rule: ErrorRule) -> str:
        """Return which of the texts seen lately this rule matches."""
        try:
            mine = OperatorRule.of(rule) if rule.pattern else None
        except (PatternError, ValueError):
            mine = None
        if mine is None:
            return "-"
        texts = UnknownText.objects.select_related("chain").order_by("-last_seen_at")[:200]
        fitting = [
            text for text in texts if mine.chain_id in (None, text.chain_id) and mine.fits(text.sample)
        ]
        if not fitting:
            return "none of those seen so far"
        rows = ((text.count, text.chain.name, text.text) for text in fitting[:SHOWN_TEXTS])
        return format_html_join("", "<div>{}×, {}: <code class='text-xs'>{}</code></div>", rows)


def _edited(rule: ErrorRule) -> list[OperatorRule]:
    """Return the rules as they will be with this one saved; one that is not active is tried as if it were."""
    try:
        return error_rules.read_rules(instead=rule)
    except ValueError:  # no class chosen yet
        return error_rules.read_rules()


def _for(rule: ErrorRule, rules: list[OperatorRule]) -> list[OperatorRule]:
    """Return those of the rules that hold on the chain of this one; all of them when it is for all chains."""
    return [each for each in rules if rule.chain_id is None or each.chain_id in (None, rule.chain_id)]


class KnownFilter(admin.SimpleListFilter):
    """Whether a rule knows the text by now."""

    title = "known by now"
    parameter_name = "known"

    def lookups(self, *_: Any) -> list[tuple[str, str]]:
        return [("no", "no rule knows it"), ("yes", "a rule knows it")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in ("no", "yes"):
            return queryset
        unknown = unknown_texts.still_unknown(queryset, error_rules.read_rules())
        ids = [text.pk for text in unknown]
        return queryset.filter(pk__in=ids) if self.value() == "no" else queryset.exclude(pk__in=ids)


@admin.register(UnknownText)
class UnknownTextAdmin(Shown, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What nodes said and no rule knew: how often, who, and what is made of it by now."""

    list_display = ("shown_words", "count", "shown_chain", "host", "shown_last", "shown_now", "shown_rule")
    list_filter = (KnownFilter, "chain", "host")
    list_select_related = ("chain",)
    search_fields = ("text", "sample", "host")
    search_help_text = "words of the text, host"
    ordering = ("-last_seen_at", "-id")
    actions_detail = ("make_rule",)
    fields = readonly_fields = (
        "text", "sample", "shown_now", "count", "shown_chain", "host", "first_seen_at", "last_seen_at",
    )  # fmt: skip

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person may forget counts; they are no history."""
        return bool(request.user.has_perm("signer.delete_unknowntext"))

    def delete_model(self, request: HttpRequest, obj: UnknownText) -> None:
        """Forget the text, and what was told of it."""
        self.delete_queryset(request, UnknownText.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[UnknownText]) -> None:
        """Forget the texts, and what was told of them."""
        who = request.user.get_username()
        for text in queryset:
            subject = unknown_texts.subject_of(text.pk, text.text)
            close_incident(IncidentKind.UNKNOWN_ERROR, subject, "its text was deleted", actor=who)
        queryset.delete()

    @display(description="Words", ordering="text")
    def shown_words(self, text: UnknownText) -> str:
        style = "overflow-wrap: anywhere; white-space: normal; display: block; min-width: 16rem"
        return format_html('<code class="text-xs" style="{}">{}</code>', style, text.text)

    @display(description="Last", ordering="last_seen_at")
    def shown_last(self, text: UnknownText) -> str:
        return f"{ago(text.last_seen_at)} ago"

    @display(description="Means by now")
    def shown_now(self, text: UnknownText) -> str:
        rule = unknown_texts.rule_of(text, error_rules.of_chain(text.chain_id))
        if rule is None:
            return format_html("{} possibly sent: no rule knows it", badge(ErrorClass.AMBIGUOUS.value))
        return format_html("{} by {}", badge(rule.error_class.value), str(rule))

    @display(description="")
    def shown_rule(self, text: UnknownText) -> str:
        return format_html(
            '<a class="text-primary-600 underline whitespace-nowrap" href="{}">Make a rule</a>',
            _make(text.pk),
        )

    def has_make_rule_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return bool(request.user.has_perm("signer.add_errorrule"))

    @action(description="Make a rule from this", url_path="rule", icon="rule", permissions=["make_rule"])
    def make_rule(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Open a new rule that knows these words."""
        return redirect(_make(object_id))


def _make(pk: Any) -> str:
    return f"{reverse('admin:signer_errorrule_add')}?text={pk}"
