"""What the platform keeps of its own: who may call the API, and which of their requests it has already answered."""

import base64
import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Sequence

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from dalp import factor_sealing
from keyguard.states import DEFAULT_TENANT


class Role(models.TextChoices):
    """What a token may do; each role may do what those before it may."""

    VIEWER = "viewer"  # read
    OPERATOR = "operator"  # start, control and decide
    ADMIN = "admin"


RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
TOKEN_PREFIX_LENGTH = 12


def token_digest(token: str) -> str:
    """Return what is stored of a token. One plain hash is enough: 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode()).hexdigest()


class ApiToken(models.Model):
    """A bearer token of the REST API. The token itself is shown once and not stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=TOKEN_PREFIX_LENGTH)
    token_sha256 = models.CharField(max_length=64)
    role = models.CharField(max_length=10, choices=Role)
    tenant = models.CharField(
        max_length=64, default=DEFAULT_TENANT, db_default=DEFAULT_TENANT
    )  # whose keys it may use
    # The person who has it: what is asked for with it, that person does not approve.
    owner = models.CharField(max_length=150, default="", db_default="", blank=True)
    # Whose approvals its holder may give. No role is a member of any by itself.
    groups = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API token"
        constraints = (models.UniqueConstraint(fields=["prefix"], name="dalp_apitoken_prefix_unique"),)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def issue(
        cls,
        name: str,
        role: str,
        groups: Sequence[str] = (),
        tenant: str = DEFAULT_TENANT,
        owner: str = "",
    ) -> tuple["ApiToken", str]:
        """Store a new token and return it with the text that its holder sends."""
        text = f"dalp_{secrets.token_urlsafe(32)}"
        token = cls.objects.create(
            name=name,
            role=Role(role),
            tenant=tenant,
            owner=owner,
            groups=sorted(set(groups)),
            prefix=text[:TOKEN_PREFIX_LENGTH],
            token_sha256=token_digest(text),
        )
        return token, text

    @classmethod
    def find(cls, text: str) -> "ApiToken | None":
        """Return the live token with this text. The comparison takes the same time whatever differs."""
        if not text.isprintable():
            return None  # PostgreSQL would not even compare a NUL
        token = cls.objects.filter(prefix=text[:TOKEN_PREFIX_LENGTH]).first()
        expected = token.token_sha256 if token else "0" * 64
        same = hmac.compare_digest(token_digest(text), expected)
        return token if token and same and token.revoked_at is None else None

    @classmethod
    def owners_behind(cls, asked_by: str) -> set[str]:
        """Return who has the tokens that this names, as requests and acts name them."""
        named = re.fullmatch(
            r"token:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|.*\((\S+)\)", asked_by, re.DOTALL
        )
        if named is None:
            return set()
        pk, prefix = named.groups()
        rows = cls.objects.filter(pk=pk) if pk else cls.objects.filter(prefix=prefix)
        return set(rows.exclude(owner="").values_list("owner", flat=True))

    def may(self, role: Role) -> bool:
        """Return whether this token may do what `role` may."""
        return RANK[Role(self.role)] >= RANK[role]


class IdempotencyRecord(models.Model):
    """The first answer to a request with this key, committed together with what the request started."""

    token = models.ForeignKey(ApiToken, models.PROTECT, related_name="+")
    method = models.CharField(max_length=10)
    path = models.CharField(max_length=300)
    key = models.CharField(max_length=255)
    body_sha256 = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    body = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name = "idempotency record"
        constraints = (
            # Two requests at once with one key meet here; without it both would start something.
            models.UniqueConstraint(
                fields=["token", "method", "path", "key"], name="dalp_idempotency_key_unique"
            ),
        )

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.key}"


class WrongPassword(models.Model):
    """A wrong password or code given where the console asks for it again. Counted here: every process sees the same count."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = (models.Index(fields=["user", "at"], name="dalp_wrongpassword_window"),)

    def __str__(self) -> str:
        return f"{self.user_id} at {self.at}"


class Authenticator(TOTPDevice):  # type: ignore[misc]
    """A person's second factor. Its secret is encrypted in the database; django-otp counts, slows down and forbids a second use."""

    class Meta:
        proxy = True
        default_permissions = ()

    @property
    def bin_key(self) -> bytes:
        """Return the secret. Raises FactorUnreadableError."""
        return factor_sealing.unseal(self.key, self.user_id)


class BackupCodes(StaticDevice):  # type: ignore[misc]
    """Codes for when the authenticator is not at hand, each for once. Only digests of them are stored."""

    class Meta:
        proxy = True
        default_permissions = ()

    @staticmethod
    def digest(code: str) -> str:
        """Return what is stored of a code. One plain hash is enough: 80 random bits cannot be guessed."""
        return base64.b64encode(hashlib.sha256(code.encode()).digest()[:12]).decode()

    def verify_token(self, token: str) -> bool:
        """Return whether it is one of the codes; it is none afterwards."""
        return bool(super().verify_token(self.digest(token)))
