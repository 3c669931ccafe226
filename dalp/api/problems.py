"""Every error of the API as application/problem+json (RFC 9457): what is wrong, what to do, whether to try again.

No answer holds the text of an unforeseen exception; that goes to the log, under the correlation id of the answer.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, cast

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

import signer
from dalp.logs import get_logger
from keyguard import BackendError, Disposition, KekError, KeyguardError, KeyNotFoundError
from keyguard.errors import (
    AliasInvalidError,
    AliasTakenError,
    BackendUnknownError,
    KeyActInvalidError,
    KeyExistsError,
    KeyguardSealedError,
    KeyUriInvalidError,
)
from workflows import (
    IdempotencyConflictError,
    InvalidInputError,
    InvalidTokenError,
    NotPermittedError,
    NotPossibleError,
    NotReplayableError,
    ObjectConflictError,
    ObjectParkedError,
    RunEndedError,
    UnknownWorkflowError,
    WorkflowError,
)

log = get_logger(__name__)

Errors = dict[str, list[str]]


@dataclass(eq=False)
class ProblemError(Exception):
    """An error with everything its answer says. `errors` maps a field's path to what is wrong with it."""

    status: int
    code: str
    detail: str
    fix: str = ""
    retryable: bool = False
    errors: Errors = field(default_factory=dict)


# The problems of requests that never reach an operation, by status.
BY_STATUS: dict[int, ProblemError] = {
    400: ProblemError(400, "API_BAD_REQUEST", "The request could not be read.", "Send valid HTTP and JSON."),
    401: ProblemError(
        401,
        "API_UNAUTHENTICATED",
        "There is no valid token in the Authorization header.",
        "Send `Authorization: Bearer TOKEN`; `manage.py create_api_token` makes one.",
    ),
    404: ProblemError(
        404, "API_NOT_FOUND", "There is nothing at this address.", "Check the path and the id."
    ),
    405: ProblemError(
        405, "API_METHOD_NOT_ALLOWED", "This address does not take this method.", "See the Allow header."
    ),
    413: ProblemError(
        413, "API_BODY_TOO_LARGE", "The body is larger than 1 MB (a transaction's: 2 MB).", "Send less."
    ),
    500: ProblemError(
        500,
        "API_INTERNAL_ERROR",
        "Something went wrong on our side; nothing that this request would have started was stored.",
        "Try again with the same Idempotency-Key; if it stays, report the correlation id.",
        retryable=True,
    ),
    503: ProblemError(
        503,
        "API_UNAVAILABLE",
        "The database does not answer; nothing that this request would have started was stored.",
        "Try again with the same Idempotency-Key.",
        retryable=True,
    ),
}


def standard(status: int) -> ProblemError:
    """Return the problem of a request that never reached an operation."""
    return replace(BY_STATUS.get(status, BY_STATUS[400]))


def not_found(what: str) -> ProblemError:
    """Return the problem of an id that is unknown, or not the caller's to know."""
    return ProblemError(404, "API_NOT_FOUND", f"There is no such {what}.", "Check the id.")


def invalid(errors: Errors, code: str = "API_INVALID_INPUT") -> ProblemError:
    """Return the problem of input that names these fields."""
    named = ", ".join(sorted(errors)[:5]) or "the body"
    return ProblemError(
        422, code, f"The input is not valid: {named}.", "Correct the fields in `errors`.", errors=errors
    )


def unknown_key(name: str, error: KeyguardError | signer.SignerError) -> ProblemError:
    """Return the problem of a key that is unknown, or another tenant's, in this field of the body: 404, as of any id."""
    detail = "There is no such key."
    return ProblemError(404, error.code, detail, error.remedy, errors={name: [str(error)]})


def by_field(errors: Iterable[Mapping[str, Any]], prefix: tuple[str, ...] = ()) -> Errors:
    """Return pydantic's errors by dotted field path, without the values that were sent."""
    found: Errors = {}
    for error in errors:
        path = ".".join(str(part) for part in (*prefix, *error["loc"])) or "body"
        found.setdefault(path[:200], []).append(str(error["msg"])[:500])
    return dict(list(found.items())[:100])


def render(problem: ProblemError, request: HttpRequest) -> HttpResponse:
    """Return `problem` as an answer."""
    body: dict[str, Any] = {
        "type": f"urn:dalp:error:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "retryable": problem.retryable,
        "fix": problem.fix,
        "correlation_id": getattr(request, "correlation_id", ""),
    }
    if problem.errors:
        body["errors"] = problem.errors
    response = HttpResponse(json.dumps(body), content_type="application/problem+json", status=problem.status)
    if problem.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


# ninja puts the source and the name of our parameter before the fields of a body: body.payload.gas_limit.
SOURCES = frozenset({"body", "query", "path", "header", "payload", "filters"})


def from_ninja(error: ValidationError) -> ProblemError:
    """Return ninja's complaint about parameters with the fields as the caller knows them."""
    cleaned = []
    for entry in error.errors:
        loc = list(entry["loc"])
        while len(loc) > 1 and loc[0] in SOURCES:
            loc.pop(0)
        cleaned.append({**entry, "loc": ["body"] if loc == ["payload"] else loc})
    return invalid(by_field(cleaned))


def from_http(error: HttpError) -> ProblemError:
    """Return the problem behind an HttpError; ninja wraps what our parser raised."""
    return error.__cause__ if isinstance(error.__cause__, ProblemError) else standard(error.status_code)


# The engine's refusals, by the status that they are answered with; those that may pass by themselves are retryable.
REFUSALS: dict[type[WorkflowError], int] = {
    UnknownWorkflowError: 404,
    InvalidTokenError: 404,
    NotPermittedError: 403,
    IdempotencyConflictError: 422,
    NotReplayableError: 409,
    NotPossibleError: 409,
    RunEndedError: 409,
    ObjectParkedError: 409,
    ObjectConflictError: 409,
}
RETRYABLE = (ObjectParkedError, ObjectConflictError)


def from_workflows(error: WorkflowError) -> ProblemError:
    """Return the engine's refusal as a problem."""
    if isinstance(error, InvalidInputError):
        return invalid(by_field(error.errors, (error.field,)), error.code)
    status = next(status for kind, status in REFUSALS.items() if isinstance(error, kind))
    return ProblemError(status, error.code, error.message, error.remedy, isinstance(error, RETRYABLE))


def from_signer(error: signer.SignerError) -> ProblemError:
    """Return the signer's refusal as a problem; a node that gives no answer may give one later."""
    if isinstance(error, signer.NotPossibleError):
        return ProblemError(409, error.code, f"{error.message}.", error.advice)
    return ProblemError(503, error.code, f"{error.message}.", error.remedy, retryable=True)


def from_keyguard(error: KeyguardError) -> ProblemError:
    """Return keyguard's refusal as a problem. What may pass by itself, or once somebody has seen to it, is a 503."""
    status = next((status for kind, status in KEY_REFUSALS.items() if isinstance(error, kind)), 503)
    retryable = status == 503 and error.disposition == Disposition.RETRY
    return ProblemError(
        status, error.code, f"{error.message[:1].upper()}{error.message[1:]}.", error.remedy, retryable
    )


# By class; a KekError, a BackendError or a seal is nothing that the caller can mend.
KEY_REFUSALS: dict[type[KeyguardError], int] = {
    AliasInvalidError: 422,
    BackendUnknownError: 422,
    KeyUriInvalidError: 422,
    AliasTakenError: 409,
    KeyExistsError: 409,
    KeyActInvalidError: 409,
    KeyNotFoundError: 404,
}


def unforeseen(request: HttpRequest, error: Exception) -> HttpResponse:
    """Log an exception that nobody foresaw and answer without a word of it."""
    if isinstance(error, OperationalError | InterfaceError):
        log.exception("database unavailable")
        return render(standard(503), request)
    log.exception("unforeseen error")
    return render(standard(500), request)


def connect(api: NinjaAPI) -> None:
    """Register how each kind of exception is answered."""

    def answer(kind: type[Exception], convert: Callable[[Any], ProblemError]) -> None:
        api.add_exception_handler(kind, lambda request, error: render(convert(error), request))

    answer(ProblemError, lambda error: error)
    answer(ValidationError, from_ninja)
    answer(AuthenticationError, lambda _error: standard(401))
    answer(Http404, lambda _error: standard(404))
    answer(HttpError, from_http)
    answer(RequestDataTooBig, lambda _error: standard(413))
    refusals: list[type[WorkflowError]] = [InvalidInputError, *REFUSALS]
    for kind in refusals:
        answer(kind, from_workflows)
    for refusal in (
        signer.NotPossibleError,
        signer.LaneBusyError,
        signer.RpcError,
        signer.ChainMismatchError,
    ):
        answer(refusal, from_signer)
    for kind in (*KEY_REFUSALS, KekError, BackendError, KeyguardSealedError):
        answer(kind, from_keyguard)
    api.add_exception_handler(Exception, lambda request, error: unforeseen(request, cast("Exception", error)))


class ProblemMiddleware:
    """Turn what Django itself answers under /api/ (404, 405, 400 and the like) into problems, too."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer `request`; no error under /api/ leaves as HTML."""
        response = self.get_response(request)
        if not request.path.startswith("/api/") or response.status_code < 400:
            return response
        if response.get("Content-Type", "").startswith("application/problem+json"):
            return response
        problem = render(standard(response.status_code), request)
        if "Allow" in response:
            problem["Allow"] = response["Allow"]
        return problem
