"""Questions before a signature, a change of policy, of a key or of who approves: what is asked, by whom, who has said what, and answering."""

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import Case, QuerySet, When
from django.db.models.expressions import OrderBy
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timeuntil
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from dalp.console.confirming import ConfirmForm, RefusedError
from dalp.console.groups import membership_asked
from dalp.console.keys import asked_of
from dalp.console.policies import answer_words, rules_table
from dalp.console.rehearsing import rehearsal_table
from dalp.console.requests import functions_of, request_table, subject_link
from keyguard import KeyguardError
from keyguard.policies import asking, describing, publishing
from keyguard.policies.deciding import active_policy
from keyguard.policies.models import Policy, Question
from keyguard.states import PolicyState, QuestionKind, QuestionState
from signer.cells import alarm
from workflows.admin.acting import Acting, row_at
from workflows.cells import STATE_COLOURS, ReadOnly, badge, link

STATE_COLOURS.update({"GRANTED": "info", "USED": "success", "REFUSED": "danger"})
OPERATIONS = (QuestionKind.KEY, QuestionKind.COMMAND)


@dataclass(frozen=True)
class Words:
    """What is said before and after an answer. granted: may name `left` and `number`, of the policy."""

    approve: str
    refuse: str
    granted: str
    refused: str


WORDS: dict[str, Words] = {
    QuestionKind.SIGNATURE: Words(
        approve="You approve exactly what stands here, and no other content: a changed one is asked about anew. Nonce and fees may still change.",
        refuse="One no is enough: it is not signed, and whoever asked is told your reason. A transaction ends by it; a message or typed data may be asked for anew, and you are asked again then.",
        granted="It is approved. Whoever asked signs it when they ask again, which a transaction does within seconds; {left}. The policy is asked once more then.",
        refused="It is refused: nothing is signed, and whoever asked is told why.",
    ),
    QuestionKind.POLICY: Words(
        approve="You approve exactly the text that stands here. With the last yes that it needs it is in force, at once.",
        refuse="One no is enough: the draft stays a draft, and may be proposed again.",
        granted="It is approved: policy {number} is in force.",
        refused="It is refused: the policy stays a draft.",
    ),
    QuestionKind.KEY: Words(
        approve="With the last yes that it needs it is done, at once. What has changed since it was asked is asked about anew.",
        refuse="One no is enough: nothing changes, and it may be asked for again.",
        granted="It is approved, and done.",
        refused="It is refused: nothing changes.",
    ),
    QuestionKind.COMMAND: Words(
        approve="With the last yes that it needs, whoever asked may run the command again, once: it is done then.",
        refuse="One no is enough: nothing changes, and it may be asked for again.",
        granted="It is approved. Whoever asked runs the command again to do it; {left}.",
        refused="It is refused: nothing changes.",
    ),
    QuestionKind.MEMBERSHIP: Words(
        approve="With the last yes that it needs the group is changed, at once.",
        refuse="One no is enough: the group stays as it is, and it may be asked for again.",
        granted="It is approved, and done.",
        refused="It is refused: the group stays as it is.",
    ),
}
OPEN_FIRST = OrderBy(Case(When(state=QuestionState.OPEN, then=0), default=1))


def left(question: Question) -> str:
    """Return how long the question may still be answered."""
    if question.expires_at <= timezone.now():
        return "its time is over"
    return f"for {timeuntil(question.expires_at)} more, until {question.expires_at:%Y-%m-%d %H:%M:%S} UTC"


def needs_of(question: Question) -> list[dict[str, Any]]:
    """Return what is needed, with how many of those who may say yes have said it, and whether there are enough."""
    yes = {vote.person for vote in question.votes.all() if vote.approves}
    barred = {question.asked_by}
    if question.kind == QuestionKind.POLICY:
        barred.add(question.policy.author)
    if question.kind == QuestionKind.MEMBERSHIP:
        barred.add(question.shown["person"])
    found = []
    for need in question.needs:
        group = need["group"]
        people = User.objects.filter(groups__name=group, is_active=True).exclude(username__in=barred)
        able = people.distinct().count()
        short = ""
        if question.state == QuestionState.OPEN and able < need["approvals"]:
            short = f"Only {able} may: without more people in the group this is never approved."
        found.append({**need, "yes": len(asking.members(yes, {group})), "short": short})
    return found


class AnswerForm(forms.Form):
    """Why somebody answers so, bound to what they were shown."""

    content_hash = forms.CharField(widget=forms.HiddenInput(), max_length=66)
    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="What you have looked at, and what you found. It is kept with your name.",
    )


class ApproveForm(ConfirmForm, AnswerForm):
    """A yes asks for the password again; a no does not."""

    field_order = ("content_hash", "reason", "password")


@admin.register(Question)
class QuestionAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What people are asked before something is signed or a policy is put in force; open ones on top."""

    list_display = ("shown_asked", "shown_state", "shown_yes", "asked_by", "shown_rule", "shown_at")
    list_filter = ("state", "kind")
    list_select_related = ("key", "policy")
    search_fields = (
        "subject__iexact",
        "key__alias",
        "key__address__iexact",
        "asked_by",
        "content_hash__iexact",
    )
    search_help_text = "transaction id, key, who asks"
    show_full_result_count = False  # the table only grows
    actions_detail = ("approve", "refuse")
    readonly_fields = (
        "shown_state", "shown_you", "shown_votes", "shown_what", "shown_subject", "asked_by", "shown_rule", "shown_policy",
        "shown_at", "content_hash",
    )  # fmt: skip
    fieldsets = (
        ("Now", {"fields": ("shown_state", "shown_you", "shown_votes")}),
        ("What is asked", {"fields": ("shown_what",)}),
        (
            "Who asks, and why people are asked",
            {
                "fields": (
                    "asked_by",
                    "shown_subject",
                    "shown_rule",
                    "shown_policy",
                    "shown_at",
                    "content_hash",
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Question]:
        """Return the questions with their votes."""
        questions: QuerySet[Question] = super().get_queryset(request)
        return questions.select_related("policy", "key").prefetch_related("votes")

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        return (OPEN_FIRST, "-asked_at")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the row, with who looks at it: a page says to each person what they may do."""
        question = super().get_object(request, object_id, from_field)
        if question is not None:
            question.reader = request.user
        return question

    @display(description="What is asked")
    def shown_asked(self, question: Question) -> str:
        """Return it in a line."""
        if question.kind == QuestionKind.POLICY:
            return f"put policy {question.policy.number} in force"
        if question.kind in OPERATIONS:
            return asked_of(question)
        if question.kind == QuestionKind.MEMBERSHIP:
            return membership_asked(question)
        words = describing.request(question.shown, functions_of(question.policy))
        style = "min-width: 18rem; white-space: normal; overflow-wrap: anywhere"
        return format_html('<div style="{}">{}</div>', style, words)

    @display(description="State", ordering="state")
    def shown_state(self, question: Question) -> str:
        """Return the state, and how long it lasts."""
        words = answer_words(question)
        if question.state == QuestionState.OPEN:
            words = left(question)
        if question.state == QuestionState.GRANTED and question.kind == QuestionKind.COMMAND:
            words = f"{words}, not done yet: the command may be run again {left(question)}"
        elif question.state == QuestionState.GRANTED:
            words = f"{words}, not signed yet: it may be {left(question)}"
        return format_html(
            '{}<div class="text-xs" style="min-width: 9rem; white-space: normal">{}</div>',
            badge(question.state),
            words,
        )

    @display(description="Yes")
    def shown_yes(self, question: Question) -> str:
        yes = sum(vote.approves for vote in question.votes.all())
        needed = ", ".join(f"{need['approvals']} of {need['group']}" for need in question.needs)
        return f"{yes}; needs {needed}"

    @display(description="Because of the rule")
    def shown_rule(self, question: Question) -> str:
        return ", ".join(need["rule"] for need in question.needs)

    @display(description="Asked, UTC", ordering="asked_at")
    def shown_at(self, question: Question) -> str:
        return f"{question.asked_at:%Y-%m-%d %H:%M:%S}"

    @display(description="You")
    def shown_you(self, question: Any) -> str:
        """Return what whoever looks at this may do, or why nothing."""
        why = publishing.may_vote(question, question.reader)
        if not why:
            return "may approve or refuse it: the buttons are at the top of the page"
        return alarm(f"You cannot answer it: {why}.")

    @display(description="Answers")
    def shown_votes(self, question: Question) -> str:
        context = {"needs": needs_of(question), "votes": question.votes.all()}
        return render_to_string("console/answers.html", context)

    @display(description="What")
    def shown_what(self, question: Question) -> str:
        """Return all that is asked, decoded."""
        if question.kind == QuestionKind.SIGNATURE:
            return request_table(question.shown, functions_of(question.policy))
        if question.kind in OPERATIONS:
            return format_html('<p class="mb-2 font-semibold">{}</p>', asked_of(question))
        if question.kind == QuestionKind.MEMBERSHIP:
            return format_html('<p class="mb-2 font-semibold">{}</p>', membership_asked(question))
        policy, active = question.policy, active_policy()
        is_draft = policy.state == PolicyState.DRAFT
        words = (
            f"To put policy {policy.number} in force, written by {policy.author}: {policy.note or 'no note'}"
        )
        return format_html(
            '<p class="mb-2 font-semibold">{}</p>{}', words, rules_table(policy, active if is_draft else None)
        )

    @display(description="It is for")
    def shown_subject(self, question: Question) -> str:
        return subject_link(question.subject)

    @display(description="Policy")
    def shown_policy(self, question: Question) -> str:
        return link("admin:keyguard_policy_change", question.policy_id, str(question.policy))

    def has_vote_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person's answer would count."""
        question = row_at(Question, object_id).select_related("policy").first()
        return (
            question is not None
            and request.user.is_authenticated
            and not publishing.may_vote(question, request.user)
        )

    @action(description="Approve", url_path="approve", icon="thumb_up", permissions=["vote"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say yes."""
        form = ApproveForm(request.POST or None, person=request.user, initial=self._bound(request, object_id))
        text = WORDS[self.row(request, object_id).kind].approve
        return self._answer(request, object_id, "Approve", text, form, approves=True)

    @action(description="Refuse", url_path="refuse", icon="thumb_down", permissions=["vote"])
    def refuse(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say no."""
        form = AnswerForm(request.POST or None, initial=self._bound(request, object_id))
        text = WORDS[self.row(request, object_id).kind].refuse
        return self._answer(request, object_id, "Refuse", text, form, approves=False)

    def _bound(self, request: HttpRequest, object_id: str) -> dict[str, str]:
        return {"content_hash": self.row(request, object_id).content_hash}

    def _answer(
        self, request: HttpRequest, object_id: str, title: str, text: str, form: forms.Form, *, approves: bool
    ) -> HttpResponse:
        question = self.row(request, object_id)
        facts = [("What is asked", self.shown_what(question)), ("Answers", self.shown_votes(question))]
        if question.kind == QuestionKind.POLICY and question.policy.state == PolicyState.DRAFT:
            facts.append(("What would have been decided otherwise", rehearsal_table(question.policy)))

        def act(pk: Any, *, actor: str, content_hash: str, reason: str) -> None:
            try:
                answered = publishing.vote(question, request.user, approves, content_hash, reason)  # type: ignore[arg-type]
            except KeyguardError as error:
                raise RefusedError(error) from error
            messages.info(request, what_is_next(answered))

        return self.ask(request, object_id, title, text, act, form, danger=not approves, facts=facts)


def what_is_next(question: Question) -> str:
    """Return what happens after an answer."""
    words = WORDS[QuestionKind(question.kind)]
    if question.state == QuestionState.REFUSED:
        return words.refused
    if question.state == QuestionState.GRANTED:
        number = Policy.objects.values_list("number", flat=True).get(pk=question.policy_id)
        return words.granted.format(left=left(question), number=number)
    question = Question.objects.prefetch_related("votes").get(pk=question.pk)
    waits = ", ".join(
        f"{need['yes']} of {need['approvals']} of {need['group']}" for need in needs_of(question)
    )
    return f"Your yes is counted: {waits}. It waits for the others, {left(question)}."
