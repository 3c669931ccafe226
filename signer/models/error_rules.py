"""What operators say that nodes mean by their words, and the words that nobody knows yet."""

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from signer.models.chains import Chain
from signer.patterns import PATTERN_LENGTH, PatternError, check_pattern
from signer.rpc_errors import ErrorClass

NORMALISED_LENGTH = 300
SAMPLE_LENGTH = 1000


class Meaning(models.TextChoices):
    """The classes of errors as a person chooses among them: what happens after such an answer."""

    AMBIGUOUS = (
        ErrorClass.AMBIGUOUS.value,
        "AMBIGUOUS: possibly sent. The same bytes are sent again until a receipt is there",
    )
    KNOWN = ErrorClass.KNOWN.value, "KNOWN: the node has it already. It counts as sent"
    NONCE_LOW = (
        ErrorClass.NONCE_LOW.value,
        "NONCE_LOW: the nonce is used. Receipts of every attempt are looked for",
    )
    NONCE_HIGH = (
        ErrorClass.NONCE_HIGH.value,
        "NONCE_HIGH: something below it is missing. It is sent again later",
    )
    UNDERPRICED = ErrorClass.UNDERPRICED.value, "UNDERPRICED: the fee is too low. Quoted anew, same nonce"
    UNDERPRICED_REPLACEMENT = (
        ErrorClass.UNDERPRICED_REPLACEMENT.value,
        "UNDERPRICED_REPLACEMENT: the pool holds another attempt at this nonce. Raised further",
    )
    FUNDS = ErrorClass.FUNDS.value, "FUNDS: the sender cannot pay. It is sent again later"
    LIMIT = ErrorClass.LIMIT.value, "LIMIT: the pool is full. Fewer at once, sent again later"
    FEE_CAP = (
        ErrorClass.FEE_CAP.value,
        "FEE_CAP: this node is configured to refuse such a fee. Sent again later",
    )
    RATE = ErrorClass.RATE.value, "RATE: the provider turned it away unread. Sent again later"
    PERMANENT = (
        ErrorClass.PERMANENT.value,
        "PERMANENT: never accepted. A no-op takes the nonce and the transaction FAILS",
    )


def is_pattern(text: str) -> None:
    """Raise ValidationError unless the text is an expression that may be put to what nodes say."""
    try:
        check_pattern(text)
    except PatternError as error:
        raise ValidationError(str(error)) from None


class ErrorRule(models.Model):
    """What an operator says that some words mean. Rules are asked in their order, before the built-in table."""

    pattern = models.CharField(max_length=PATTERN_LENGTH, validators=[is_pattern])
    error_class = models.CharField(max_length=30, choices=Meaning)
    chain = models.ForeignKey(
        Chain, on_delete=models.CASCADE, null=True, blank=True, related_name="error_rules"
    )  # NULL: all
    position = models.PositiveSmallIntegerField(default=100)
    active = models.BooleanField(default=True)
    note = models.TextField()
    created_by = models.CharField(max_length=150, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_by = models.CharField(max_length=150, default="", blank=True, editable=False)
    updated_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("position", "id")
        constraints = (
            # An empty expression fits every text.
            models.CheckConstraint(name="signer_error_rule_has_pattern", condition=~Q(pattern="")),
        )

    def __str__(self) -> str:
        return f"rule {self.pk} “{self.pattern}”" if self.pk else f"this rule “{self.pattern}”"


class UnknownText(models.Model):
    """What a node said and no rule knew, without the numbers and addresses that make each time another text of it."""

    chain = models.ForeignKey(Chain, on_delete=models.CASCADE, related_name="unknown_texts")
    text = models.CharField(max_length=NORMALISED_LENGTH)
    host = models.CharField(max_length=255, default="", blank=True)  # who said so last
    sample = models.CharField(max_length=SAMPLE_LENGTH)  # as it was said last, without secrets
    count = models.BigIntegerField(default=0)
    first_seen_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("-last_seen_at", "-id")
        constraints = (
            # What the counting upsert conflicts on.
            models.UniqueConstraint(fields=["chain", "text"], name="signer_unknown_text_chain_text_unique"),
        )

    def __str__(self) -> str:
        return self.text
