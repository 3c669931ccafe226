"""A workflow that contradicts itself is refused when its class is made."""

from dataclasses import replace

import pytest
from pydantic import BaseModel

from workflows import Command, DefinitionError, Operation, Retry, Sleep, Workflow, definition, step
from workflows.fitting import output_type


class Number(BaseModel):
    n: int


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.definition._REGISTRY", {})


def test_steps_and_their_data_flow_are_read_from_the_class() -> None:
    class Sum(Workflow[Number, int]):
        class Meta:
            name, version, queue = "sum", 3, "sums"

        @step(queue="other")
        def one(self, input: Number, operation: Operation) -> int: ...

        @one.undo(retry=Retry(attempts=9))
        def not_one(self, one: int) -> None: ...

        @step
        def two(self, one: int) -> int: ...

    made = Sum.definition
    assert [(s.name, s.parameters, s.queue) for s in made.steps] == [
        ("one", ("input", "operation"), "other"),
        ("two", ("one",), "sums"),
    ]
    assert made.steps[0].undo is not None
    assert made.steps[0].undo.retry.attempts == 9
    assert made.queues_from(0) == ["other", "sums"]
    assert made.queues_from(1) == ["sums"]


def test_fingerprint_changes_with_the_shape_and_not_with_the_code() -> None:
    def fingerprint(extra_parameter: bool, result: int) -> str:
        class Shape(Workflow[Number, int]):
            class Meta:
                name = f"shape{result}{extra_parameter}"

            @step
            def one(self, input: Number) -> int:
                return result

            if extra_parameter:

                @step
                def two(self, one: int) -> int: ...

        return replace(Shape.definition, name="shape").fingerprint

    assert fingerprint(False, 1) == fingerprint(False, 2)
    assert fingerprint(False, 1) != fingerprint(True, 1)


@pytest.mark.parametrize(
    ("annotation", "output"),
    [
        (int, int),
        (Sleep, type(None)),
        (list[Sleep], list[type(None)]),  # type: ignore[misc]
        (Sleep | int, type(None) | int),
    ],
)
def test_command_in_an_annotation_stands_for_its_result(annotation: object, output: object) -> None:
    assert output_type(annotation) == output


def test_workflow_without_steps_is_refused() -> None:
    with pytest.raises(DefinitionError, match="at least one step"):

        class Empty(Workflow[Number, int]):
            class Meta:
                name = "empty"


def test_retry_delays_grow_to_their_cap() -> None:
    retry = Retry(first=1, factor=2, cap=5, jitter=0)
    assert [retry.delay(n) for n in (1, 2, 3, 4, 1000)] == [1, 2, 4, 5, 5]


@pytest.mark.case("E24")
def test_what_failed_together_is_not_tried_again_together() -> None:
    delays = {Retry(first=10, jitter=0.2).delay(1) for _ in range(100)}
    assert len(delays) > 90
    assert all(8 <= delay <= 12 for delay in delays)


def test_sleep_needs_exactly_one_of_seconds_and_until() -> None:
    with pytest.raises(ValueError, match="either seconds or until"):
        Sleep()
    assert issubclass(Sleep, Command)
    assert definition.find_definition("nothing") is None
