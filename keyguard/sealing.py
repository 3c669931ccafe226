"""Sealing: nothing is signed until people have looked.

Upholds: a seal is seen by the next signature of any process, for it is read under the lock of the signing transaction.
Keyguard seals itself when its trail cannot be written, and a backend when that has signed falsely or has refused its PIN.
No seal is lifted while the KEK at hand is another one than that which the keys are under. While the database
cannot be written, the process that wanted to seal signs nothing more; one that cannot write signs nothing anyway.
What custodies were asked for before is looked up as ever.
"""

import threading
from collections.abc import Iterable
from contextlib import suppress

import structlog
from django.db import Error as DatabaseError
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from keyguard import operations
from keyguard.audit import chaining
from keyguard.errors import (
    AuditFailedError,
    KekMalformedError,
    KekMismatchError,
    KeyguardError,
    KeyguardSealedError,
    SealingInvalidError,
)
from keyguard.kek import open_kek, prove
from keyguard.kek_providers import provider_of
from keyguard.models import Kek, Sealing
from keyguard.operations import Operation
from keyguard.policies.models import Question
from keyguard.states import KekState, QuestionKind, QuestionState, SealVerb

log = structlog.get_logger("keyguard")


UNDER_A_KEK = ("", "database", "vault")
# Longer nobody waits for a seal to be written; this process signs nothing all the same.
SEALING_SECONDS = 5
# Seals that the database has not taken yet, by backend.
_wanted: dict[str, str] = {}


def seal(reason: str, *, backend: str = "", code: str = "", actor: str = "") -> bool:
    """Seal keyguard, or one backend; say whether this call did it. code: an error's, when keyguard seals itself."""
    try:
        with transaction.atomic():
            Sealing.objects.create(backend=backend, code=code, reason=reason[:500], actor=actor[:150])
            if code != AuditFailedError.code:  # the trail is what does not work
                chaining.note("sealed", {"backend": backend, "code": code, "reason": reason, "actor": actor})
    except IntegrityError:
        return False
    log.error("keyguard_sealed", backend=backend or "all", code=code, reason=reason, actor=actor)
    return True


def seal_itself(error: KeyguardError, backend: str = "") -> None:
    """Seal because of an error, at once in this process, and in the others as soon as the database takes it."""
    want(error, backend)
    try:
        seal(error.message, backend=backend, code=error.code)
    except (DatabaseError, KeyguardError) as failure:
        log.error("keyguard_not_sealed_yet", backend=backend or "all", exception=type(failure).__name__)  # noqa: TRY400
    else:
        _wanted.pop(backend, None)


def want(error: KeyguardError, backend: str = "") -> None:
    """Have this process sign nothing any more until the seal is written: by `seal_itself`, or whoever comes next."""
    _wanted[backend] = error.code


def seal_beside(error: KeyguardError, backend: str = "") -> None:
    """Seal over a connection of its own: the transaction at hand is about to be undone, and the seal is to stay."""
    want(error, backend)
    if connection.vendor != "postgresql":
        if not connection.in_atomic_block:
            seal_itself(error, backend)
        return  # one writer at a time: whoever comes next writes it

    def write() -> None:
        try:
            seal_itself(error, backend)
        finally:
            connection.close()

    thread = threading.Thread(target=write, name="keyguard-seal", daemon=True)
    thread.start()
    thread.join(SEALING_SECONDS)


chaining.on_failure(seal_beside)


def write_wanted() -> None:
    """Write the seals that the database has not taken yet, as far as it takes them now. Within no transaction."""
    for backend, code in list(_wanted.items()):
        with suppress(DatabaseError, KeyguardError):
            seal("keyguard sealed itself", backend=backend, code=code)
            _wanted.pop(backend, None)


def require_unsealed(backends: Iterable[str]) -> None:
    """Raise KeyguardSealedError where this process wanted to seal and could not yet; tries it again.

    Within no transaction: the refusal would take the seal back.
    """
    if _wanted.keys() & {"", *backends}:
        write_wanted()
        raise KeyguardSealedError


def sealing_of(backend: "OuterRef") -> "Exists":
    """Return the condition that keys of this backend sign nothing now."""
    return Exists(_open_on(backend))


def is_sealed(backend: str) -> bool:
    """Return whether keys of this backend sign nothing now."""
    return _open_on(backend).exists()


def _open_on(backend: "OuterRef | str") -> QuerySet[Sealing]:
    return open_sealings().filter(Q(backend="") | Q(backend=backend))


def open_sealings() -> QuerySet[Sealing]:
    """Return the seals that nobody has lifted."""
    return Sealing.objects.filter(lifted_at=None)


def unseal(sealing: Sealing, actor: str, reason: str) -> Question | None:
    """Lift a seal, or ask those whose approval it takes, and return the question.

    Raises SealingInvalidError, KeyActInvalidError, and KekMismatchError or KekMalformedError where it stays because the
    KEK at hand is another one.
    """
    if not reason.strip():
        raise SealingInvalidError("say why: whoever reads it later will want to know")
    if sealing.lifted_at is not None:
        raise SealingInvalidError("it is lifted already")
    _require_own_kek(sealing.backend)
    asked = operations.ask(_lifting(sealing, reason), actor)
    if asked is None:
        _lift(sealing.pk, actor, reason)
    return asked


def _require_own_kek(backend: str, *, far: bool = True) -> None:
    """Raise where keys of this backend are under a KEK and the one at hand is not it. far: also ask one that is elsewhere.

    Whether it is there at all is not asked: the process of a console has none, and a Vault that is away comes back.
    """
    kek = Kek.objects.filter(state=KekState.ACTIVE).first()
    if kek is None or backend not in UNDER_A_KEK:
        return
    is_far = provider_of(kek.provider).remote
    if is_far and not far:
        return
    try:
        open_kek(kek)
        if is_far:  # it may have been exchanged since it was proved
            prove(kek, provider_of(kek.provider).open(kek))
    except (KekMismatchError, KekMalformedError):
        raise
    except KeyguardError as error:
        log.warning("unsealed_without_kek", code=error.code)


def question_of(sealing: Sealing) -> Question | None:
    """Return the question whether to lift it that people have not answered yet."""
    subject = _lifting(sealing, "").subject
    return Question.objects.filter(
        kind=QuestionKind.KEY, subject=subject, shown__sealing=sealing.pk, state=QuestionState.OPEN
    ).first()


def _lifting(sealing: Sealing, reason: str) -> Operation:
    return Operation(
        SealVerb.LIFT,
        f"seal on {sealing.backend or 'all backends'}",
        str(sealing.pk),
        reason,
        {"sealing": sealing.pk, "sealed_because": f"{sealing.code} {sealing.reason}".strip()},
    )


def carry_out_approved(question: Question, actor: str) -> None:
    """Lift the seal that people have approved to lift, in the transaction of the last yes."""
    # In a transaction, where nobody far away is waited for: whoever asked has asked them.
    _require_own_kek(Sealing.objects.get(pk=question.shown["sealing"]).backend, far=False)
    _lift(question.shown["sealing"], f"{question.asked_by}, {actor}", question.shown["reason"])


def _lift(pk: int, actor: str, reason: str) -> None:
    with transaction.atomic():
        lifted = open_sealings().filter(pk=pk)
        if not lifted.update(lifted_at=Now(), lifted_by=actor[:150], lifted_reason=reason[:500]):
            raise SealingInvalidError("somebody else has lifted it meanwhile")
        chaining.note("unsealed", {"sealing": pk, "actor": actor, "reason": reason})
    log.warning("keyguard_unsealed", actor=actor, reason=reason)


operations.EXECUTORS[SealVerb.LIFT] = carry_out_approved
