"""What an exception means, and what may be stored."""

import math

import pytest
from pydantic import TypeAdapter

from keyguard import BackendError, KeyguardError
from keyguard.errors import ApprovalPendingError, CustodyUnreachableError, PolicyDeniedError
from signer.errors import RpcUnavailableError, SignerError, UnknownChainError
from workflows import PermanentError, Retry, StepDefinition, TransientError
from workflows.engine.outcomes import Failed, Parked, TryLater, describe, outcome_of_error, to_json
from workflows.errors import BadOutputError


def a_step(output: object) -> StepDefinition:
    return StepDefinition("s", print, "idempotent", Retry(), "q", (), TypeAdapter(output), str(output))


def test_permanent_errors_fail_at_once() -> None:
    outcome = outcome_of_error(PermanentError("NO", "never"), "idempotent", Retry(attempts=5), 1)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "NO"


def test_transient_errors_are_retried_by_the_policy_and_then_parked() -> None:
    retry = Retry(attempts=4, first=2, jitter=0)
    assert outcome_of_error(TransientError("T", "t"), "idempotent", retry, 3) == TryLater(
        describe(TransientError("T", "t")), 8
    )
    assert isinstance(outcome_of_error(TransientError("T", "t"), "idempotent", retry, 4), Parked)


def test_unforeseen_errors_get_few_attempts() -> None:
    assert isinstance(outcome_of_error(ValueError("?"), "idempotent", Retry(attempts=50), 2), TryLater)
    assert isinstance(outcome_of_error(ValueError("?"), "idempotent", Retry(attempts=50), 3), Parked)


@pytest.mark.parametrize(
    ("error", "outcome", "uncertain"),
    [
        (PolicyDeniedError("no rule allows it"), Failed, None),
        (BackendError("the token is away"), TryLater, False),
        (ApprovalPendingError("two people"), TryLater, False),
        (CustodyUnreachableError("no answer"), TryLater, True),
        (UnknownChainError("chain 5"), Failed, None),
        (RpcUnavailableError("no endpoint"), TryLater, False),
    ],
)
def test_what_other_packages_say_of_their_errors_counts(
    error: KeyguardError | SignerError, outcome: type, uncertain: bool | None
) -> None:
    """Four attempts: more than anything unforeseen gets."""
    found = outcome_of_error(error, "idempotent", Retry(attempts=5, jitter=0), 4)
    assert type(found) is outcome
    assert (found.error.code, found.error.message) == (error.code, error.message)
    assert getattr(found, "uncertain", None) is uncertain


def test_disposition_of_another_kind_says_nothing() -> None:
    class Foreign(Exception):  # noqa: N818
        code = "FOREIGN"
        disposition = "inline"

    assert describe(Foreign("?")).code == "UNEXPECTED_FOREIGN"
    assert isinstance(outcome_of_error(Foreign("?"), "idempotent", Retry(attempts=50), 3), Parked)


@pytest.mark.case("E20")
def test_exception_whose_text_fails_is_described_all_the_same() -> None:
    class Awkward(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    described = describe(Awkward())
    assert described.code == "UNEXPECTED_AWKWARD"
    assert "Awkward" in described.message
    assert describe(ValueError("a\x00b\ud800")).message == "a\\0b\\ud800"


@pytest.mark.case("E19")
@pytest.mark.parametrize(
    ("output", "value"),
    [
        (int, "many"),
        (float, math.nan),
        (str, "a\x00b"),
        (dict[str, int], {"a": object()}),
        (object, object()),
    ],
)
def test_output_that_cannot_be_stored_is_named(output: object, value: object) -> None:
    with pytest.raises(BadOutputError, match="s returned"):
        to_json(a_step(output), value)


def test_amounts_of_256_bits_survive() -> None:
    assert to_json(a_step(int), 2**256 - 1).value == 2**256 - 1
