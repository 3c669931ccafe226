"""People and groups in the console. Who is in a group that approves is asked of its members, and changed nowhere else."""

from copy import copy
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget

from dalp.console.confirming import ConfirmedEdits, ConfirmForm, RefusedError, confirmed
from keyguard import KeyguardError
from keyguard.policies import guarding, memberships
from keyguard.policies.models import MembershipAct, Question
from keyguard.states import MembershipVerb, QuestionKind, QuestionState
from signer.cells import alarm
from workflows.admin.acting import Acting, ReasonForm, row_at
from workflows.cells import link

TEXTS = {
    MembershipVerb.ADD: "The members are asked, and with the last yes that it takes the person is one of them. Neither you nor the person answers.",
    MembershipVerb.REMOVE: "At once, by you alone: the person's answers to open questions do not count any more. To come back takes the members' approval.",
}

TITLES = {MembershipVerb.ADD: "Ask to add a member", MembershipVerb.REMOVE: "Remove a member"}

for model in (User, Group):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


def membership_asked(question: Question) -> str:
    """Return what the members of a group are asked about it, in a sentence."""
    shown = question.shown
    name = f"{shown['person']} ({shown['full_name']})" if shown["full_name"] else shown["person"]
    return f"add {name} to the group {shown['group']}, whose members approve. {question.asked_by} says: {shown['reason']}"


class MemberForm(ConfirmForm, ReasonForm):
    """Whom, why, and the password again."""

    person_id = forms.ModelChoiceField(
        User.objects.none(), label="Person", widget=UnfoldAdminSelectWidget(), empty_label="choose a person"
    )
    field_order: Any = ("person_id", "reason", "password")

    def __init__(self, *args: Any, people: "QuerySet[User]", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["person_id"].queryset = people  # type: ignore[attr-defined]
        self.fields["reason"].help_text = "Why this person, and why now. It is kept with your name."


class PersonForm(UserChangeForm):  # type: ignore[misc]
    """A person, but for the groups that are not to be chosen here."""

    def clean_groups(self) -> "QuerySet[Group]":
        """Refuse a change of groups that approve."""
        wanted: QuerySet[Group] = self.cleaned_data["groups"]
        changed = {group.name for group in set(wanted) ^ set(self.instance.groups.all())}
        if names := changed & set(guarding.guarded()):
            error = guarding.refused(names)
            raise forms.ValidationError(f"{error.message}. {error.remedy}")
        return wanted


@admin.register(User)
class PersonAdmin(ConfirmedEdits, DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    """People who may use the console. Whoever changes one, or gives one a password, confirms it.

    A new one may do nothing yet.
    """

    form = PersonForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what somebody did goes by their name, and the admin's own log would go with them. Deactivate them."""
        return False

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Give a person a password; whoever does so confirms it by their own."""
        asking = copy(self)  # the admin is all requests'
        asking.change_password_form = confirmed(self.change_password_form, request.user)
        return super(PersonAdmin, asking).user_change_password(request, id, form_url)


class GroupForm(forms.ModelForm):  # type: ignore[type-arg]
    """A group, but for the names that rules go by."""

    def clean_name(self) -> str:
        """Refuse to rename a group that approves, or another one to its name."""
        name: str = self.cleaned_data["name"]
        before = self.instance.name if self.instance.pk else name
        if before != name and (names := {before, name} & set(guarding.guarded())):
            raise forms.ValidationError(f"{', '.join(sorted(names))}: a rule or a setting goes by this name.")
        return name


@admin.register(Group)
class PermissionGroupAdmin(Acting, ConfirmedEdits, DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    """Groups of people: what they may do, and of those that approve who is in them."""

    form = GroupForm
    list_display = ("name", "shown_approves")
    fields = ("name", "shown_approves", "shown_members", "shown_questions", "shown_acts", "permissions")
    readonly_fields = ("shown_approves", "shown_members", "shown_questions", "shown_acts")
    actions_detail = ("add_member", "remove_member")

    @display(description="Approves")
    def shown_approves(self, group: Group) -> str:
        """Return what the members' yes is worth, and whether there are enough of them."""
        own = [duty for duty in guarding.duties() if duty.group == group.name]
        if not own:
            return "nothing: its members are chosen on each person's page"
        there, needed = group.user_set.filter(is_active=True).count(), guarding.guarded()[group.name]
        words = "; ".join(f"{duty.what} ({duty.approvals} of them)" for duty in own)
        if there >= needed:
            return f"{words}. It has {there} active members."
        return alarm(f"{words}. It has {there} active members, too few: manage.py add_approver --first.")

    @display(description="Members")
    def shown_members(self, group: Group) -> str:
        """Return who is in it."""
        people = [
            (link("admin:auth_user_change", user.pk, str(user)), "" if user.is_active else " (deactivated)")
            for user in group.user_set.order_by("username")
        ]
        return format_html_join(", ", "{}{}", people) or "nobody"

    @display(description="Waits for approval")
    def shown_questions(self, group: Group) -> str:
        """Return what its members are asked about it now."""
        rows = Question.objects.filter(kind=QuestionKind.MEMBERSHIP, state=QuestionState.OPEN)
        found = [
            (link("admin:keyguard_question_change", question.pk, membership_asked(question)),)
            for question in rows.filter(shown__group_id=group.pk)
        ]
        return format_html_join("", "<p>{}</p>", found) or "nothing"

    @display(description="Who came and went")
    def shown_acts(self, group: Group) -> str:
        """Return what was done to it, newest first."""
        acts = MembershipAct.objects.filter(group=group).select_related("person")[:50]
        lines = [
            (f"{act.at:%Y-%m-%d %H:%M:%S} UTC", act.verb, act.person, act.actor, act.reason) for act in acts
        ]
        style = "overflow-wrap: anywhere"
        listed = format_html_join("", "<p>{}: {} {}, by {}: {}</p>", lines)
        return format_html('<div style="{}">{}</div>', style, listed) if lines else "nothing"

    def has_members_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may ask for a change, and it is asked for here."""
        group = row_at(Group, object_id).first()
        fits = group is not None and group.name in guarding.guarded()
        return fits and bool(request.user.has_perm("auth.change_user"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False for a group that approves, or did, and for one with members: first take it from each of them."""
        if obj is not None and (
            obj.name in guarding.guarded()
            or obj.user_set.exists()
            or MembershipAct.objects.filter(group=obj).exists()
        ):
            return False
        return bool(super().has_delete_permission(request, obj))

    @action(
        description="Ask to add a member", url_path="add-member", icon="person_add", permissions=["members"]
    )
    def add_member(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask whether somebody may join."""
        people = User.objects.filter(is_active=True).exclude(groups=self.row(request, object_id))
        return self._act(request, object_id, MembershipVerb.ADD, people)

    @action(
        description="Remove a member",
        url_path="remove-member",
        icon="person_remove",
        permissions=["members"],
    )
    def remove_member(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take somebody's say away."""
        people = User.objects.filter(groups=self.row(request, object_id))
        return self._act(request, object_id, MembershipVerb.REMOVE, people)

    def _act(
        self, request: HttpRequest, object_id: str, verb: MembershipVerb, people: "QuerySet[User]"
    ) -> HttpResponse:
        def act(pk: Any, *, actor: str, person_id: User, reason: str) -> None:
            try:
                asked = memberships.act(Group.objects.get(pk=pk), person_id, verb, actor, reason)
            except KeyguardError as error:
                raise RefusedError(error) from error
            if asked:
                messages.info(request, "Nothing has changed yet: the members are asked to approve it.")

        form = MemberForm(request.POST or None, person=request.user, people=people.order_by("username"))
        title, danger = TITLES[verb], verb == MembershipVerb.REMOVE
        facts = [
            (name, shown(self.row(request, object_id)))
            for name, shown in (("Approves", self.shown_approves), ("Members", self.shown_members))
        ]
        return self.ask(request, object_id, title, TEXTS[verb], act, form, danger=danger, facts=facts)
