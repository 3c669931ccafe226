"""Policies in versions, what people are asked, what they say, and what limits have left.

Upholds, in the database: one policy is in force at a time and its text never changes; one question is open for a
request at a time; one person has one vote; a request counts once in a limit; who is in a group that approves changes
only after a row here says so.
"""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from keyguard.fields import Uint256Field
from keyguard.states import MembershipVerb, PolicyState, QuestionKind, QuestionState


class Policy(models.Model):
    """One version of the rules. Its text is fixed from the start: a change is another version."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    number = models.PositiveIntegerField()
    body = models.JSONField()
    hash = models.CharField(max_length=66)
    state = models.CharField(max_length=10, choices=PolicyState, default=PolicyState.DRAFT)
    note = models.CharField(max_length=500, blank=True, help_text="what this version changes, and why")
    author = models.CharField(max_length=150)
    created_at = models.DateTimeField(db_default=Now())
    activated_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-number"]
        verbose_name_plural = "policies"
        constraints = [
            models.UniqueConstraint(fields=["number"], name="keyguard_policy_number_unique"),
            models.UniqueConstraint(
                fields=["state"], condition=Q(state="ACTIVE"), name="keyguard_policy_active_unique"
            ),
            models.CheckConstraint(
                condition=Q(state__in=PolicyState.values), name="keyguard_policy_state_valid"
            ),
        ]

    def __str__(self) -> str:
        return f"policy {self.number}"


class Question(models.Model):
    """What people are asked, bound to the very content that they are shown."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=12, choices=QuestionKind)
    subject = models.CharField(max_length=255)  # what it is about, as whoever asks calls it
    key = models.ForeignKey("keyguard.Key", on_delete=models.PROTECT, null=True, related_name="questions")
    content_hash = models.CharField(max_length=66)
    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="questions")
    needs = models.JSONField()  # a list of rule, approvals, group
    shown = models.JSONField(default=dict)  # the decoded request
    asked_by = models.CharField(max_length=150, blank=True)
    state = models.CharField(max_length=8, choices=QuestionState, default=QuestionState.OPEN)
    slot = models.CharField(max_length=120, blank=True)  # what the yes was used for: `keyguard.jobs`
    asked_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()  # while it is open: until when it may be answered; then, used
    answered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-asked_at"]
        constraints = [
            # Of any number of workers that need an answer one asks.
            models.UniqueConstraint(
                fields=["subject", "content_hash"],
                condition=Q(state__in=["OPEN", "GRANTED", "USED"]),
                name="keyguard_question_open_unique",
            ),
            models.CheckConstraint(
                condition=Q(state__in=QuestionState.values), name="keyguard_question_state_valid"
            ),
        ]
        indexes = [
            models.Index(
                fields=["expires_at"],
                condition=Q(state__in=["OPEN", "GRANTED"]),
                name="keyguard_question_due",
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.subject}"


class Vote(models.Model):
    """What one person said to one question. Never changed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    question = models.ForeignKey(Question, on_delete=models.PROTECT, related_name="votes")
    person = models.CharField(max_length=150)  # a user's name
    approves = models.BooleanField()
    content_hash = models.CharField(max_length=66)  # of what the person was shown
    reason = models.CharField(max_length=500, blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["at"]
        constraints = [
            models.UniqueConstraint(fields=["question", "person"], name="keyguard_vote_person_unique")
        ]

    def __str__(self) -> str:
        return f"{self.person} says {'yes' if self.approves else 'no'}"


class Purse(models.Model):
    """What a limit counts apart: the row that is locked while somebody looks whether there is enough left."""

    rule = models.CharField(max_length=80)
    bucket = models.CharField(max_length=300)

    class Meta:
        verbose_name = "limit of the policy"
        verbose_name_plural = "limits of the policy"
        constraints = [
            models.UniqueConstraint(fields=["rule", "bucket"], name="keyguard_purse_rule_bucket_unique")
        ]

    def __str__(self) -> str:
        return f"{self.rule} {self.bucket}"


class Spending(models.Model):
    """What one request took from a limit: once, however often it is signed again with other fees at its nonce."""

    purse = models.ForeignKey(Purse, on_delete=models.PROTECT, related_name="spendings")
    subject = models.CharField(max_length=400)  # with the slot
    amount = Uint256Field()
    uses = models.IntegerField(default=1)  # by how many requests that are signed, or may be
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["purse", "subject"], name="keyguard_spending_subject_unique")
        ]
        indexes = [
            models.Index(fields=["purse", "at"], name="keyguard_spending_window"),
            models.Index(fields=["subject"], name="keyguard_spending_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.amount} by {self.subject}"


class GuardedGroup(models.Model):
    """A group whose members approve, as the policy in force and the settings name it: what the triggers go by."""

    name = models.CharField(max_length=150)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name"], name="keyguard_guardedgroup_name_unique")]

    def __str__(self) -> str:
        return self.name


class MembershipAct(models.Model):
    """Somebody comes into a guarded group, or leaves it. Never changed; the last one of a person and a group counts."""

    group = models.ForeignKey("auth.Group", on_delete=models.PROTECT, related_name="+")
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    verb = models.CharField(max_length=8, choices=MembershipVerb)
    actor = models.CharField(max_length=320)  # with whoever gave the last approval
    reason = models.CharField(max_length=500)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        verbose_name = "change of who approves"
        verbose_name_plural = "changes of who approves"
        indexes = [models.Index(fields=["group", "person", "id"], name="keyguard_membershipact_last")]

    def __str__(self) -> str:
        return f"{self.verb} by {self.actor}"
