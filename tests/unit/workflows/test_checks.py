"""A workflow that contradicts itself is told by a system check with a hint, and starts no run."""

from collections.abc import Iterator

import pytest
from django.core.checks import Error, Warning
from pydantic import BaseModel

from workflows import DefinitionError, Sleep, Workflow, step
from workflows.checks import check_definitions


class Number(BaseModel):
    n: int
    many: list[int] = []


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("workflows.definition._REGISTRY", {})
    monkeypatch.setattr("workflows.definition._DUPLICATES", [])
    return


def found() -> list[tuple[str, str]]:
    messages = check_definitions(None)
    assert all(message.hint for message in messages), "each says what helps"
    return [(str(message.id), message.msg) for message in messages]


def only(identifier: str) -> str:
    [(found_id, message)] = found()
    assert found_id == f"workflows.{identifier}"
    return message


def test_sound_workflow_is_not_complained_about() -> None:
    class Sound(Workflow[Number, int]):
        class Meta:
            name, key = "sound", "n:{input.n}"

        @step(when=lambda input: input.n > 0)
        def one(self, input: Number) -> int: ...

        @step(each="input.many", parallel=True)
        def two(self, item: int, one: int | None) -> str: ...

        @step(parallel=True)
        def three(self) -> Sleep: ...

        @step
        def four(self, two: list[str], three: None) -> int: ...

    assert found() == []


def test_unknown_parameter_is_named_with_the_known_ones() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step
        def one(self) -> int: ...

        @step
        def two(self, thre: int) -> int: ...

    assert only("E001") == "Bad.two: no step named 'thre' before it"
    assert "input, operation, one" in str(check_definitions(None)[0].hint)
    with pytest.raises(DefinitionError, match="no step named 'thre'"):
        Bad.start(Number(n=1))


def test_parameter_of_another_type_than_its_producer_is_found() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step
        def one(self) -> list[int]: ...

        @step
        def two(self, one: list[str]) -> int: ...

    assert "parameter 'one' is list[str], but takes list[int]" in only("E002")


def test_output_of_a_step_that_may_be_skipped_may_be_none() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step(when=lambda input: input.n > 0)
        def one(self, input: Number) -> int: ...

        @step
        def two(self, one: int) -> int: ...

    assert "Bad.two: parameter 'one' is int" in only("E002")


def test_verify_without_a_verifier_is_found() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step(effect="verify")
        def one(self) -> int: ...

    assert "without a verifier" in only("E004")


def test_transactional_step_that_waits_is_found_in_its_undo_too() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step(effect="transactional")
        def one(self) -> int | Sleep: ...

        @one.undo(effect="transactional")
        def not_one(self) -> list[Sleep]: ...

    assert [identifier for identifier, _ in found()] == ["workflows.E005", "workflows.E005"]


def test_annotation_that_cannot_be_stored_is_found() -> None:
    class Connection: ...

    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step
        def one(self) -> Connection: ...  # type: ignore[valid-type]

    assert "cannot be stored" in only("E006")


def test_two_methods_of_one_name_are_found() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step
        def pay(self) -> int: ...

        @step
        def pay(self, input: Number) -> int: ...  # type: ignore[no-redef]  # noqa: F811

    assert only("E008") == "Bad.pay: two methods have this name"


def test_parallel_step_cannot_take_its_siblings_output() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step(parallel=True)
        def one(self) -> int: ...

        @step(parallel=True)
        def two(self, one: int) -> int: ...

    assert "runs at the same time" in only("E009")


@pytest.mark.parametrize("each", ["input.money", "nothing"])
def test_list_that_does_not_exist_is_found(each: str) -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name = "bad"

        @step(each=each)
        def one(self, item: int) -> int: ...

    only("E010")


def test_key_of_an_unknown_field_is_found() -> None:
    class Bad(Workflow[Number, int]):
        class Meta:
            name, key = "bad", "account:{input.account}"

        @step
        def one(self) -> int: ...

    assert "{input.account}" in only("E011")


def test_forgotten_undo_is_a_warning_that_can_be_answered() -> None:
    def workflow(name: str, undo: bool) -> None:
        meta = type("Meta", (), {"name": name})

        class Saga(Workflow[Number, int]):
            Meta = meta  # type: ignore[assignment]

            @step(effect="transactional")
            def one(self) -> int: ...

            @one.undo
            def not_one(self) -> None: ...

            @step(undo=undo)
            def pay(self) -> Sleep: ...

            @step
            def end(self) -> int: ...

        Saga.__name__ = name

    workflow("answered", False)
    assert found() == []
    workflow("forgotten", True)
    assert "has an effect and no undo" in only("W001")
    assert isinstance(check_definitions(None)[0], Warning)


def test_two_workflows_of_one_name_are_found() -> None:
    class First(Workflow[Number, int]):
        class Meta:
            name = "same"

        @step
        def one(self) -> int: ...

    class Second(Workflow[Number, int]):
        class Meta:
            name = "same"

        @step
        def one(self) -> int: ...

    assert "First" in only("E013")
    assert "Second" in only("E013")
    assert isinstance(check_definitions(None)[0], Error)
