"""Mistakes in a class of virtual objects are told by number, and none of its calls is started."""

import types
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from tests.sample.objects import Wallet
from workflows import (
    Child,
    DefinitionError,
    ObjectCall,
    VirtualObject,
    definition,
    exclusive,
    find_definition,
    shared,
)
from workflows.checks import check_definitions
from workflows.objects import definition as object_definition
from workflows.objects import find_object


class Count(BaseModel):
    value: int = 0


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.definition._REGISTRY", dict(definition._REGISTRY))
    monkeypatch.setattr("workflows.definition._DUPLICATES", [])
    monkeypatch.setattr("workflows.objects.definition._OBJECTS", dict(object_definition._OBJECTS))


def problems(cls: type[VirtualObject[Any]]) -> set[str]:
    handler = next(each.workflow for each in cls.definition.handlers.values() if each.workflow)
    return {problem.id for problem in handler.problems}


def test_handlers_are_workflows_of_one_step_each() -> None:
    debit = find_definition("wallet.debit")
    assert debit is not None
    assert (debit.key, debit.queue, [step.name for step in debit.steps]) == (
        "wallet:{input.key}",
        "workflows",
        ["debit"],
    )
    assert set(debit.input_model.model_fields) == {"key", "amount"}
    assert debit.problems == ()
    assert find_definition("wallet.balance") is None, "nothing is started for a shared one"
    assert find_object("wallet") is Wallet.definition
    assert debit.workflow.__doc__ == "Take money out."


def test_call_is_a_command_with_checked_arguments() -> None:
    call = Wallet("a").debit(Decimal(5))
    assert isinstance(call, ObjectCall)
    assert isinstance(call, Child)
    assert (call.workflow, call.input) == ("wallet.debit", {"key": "a", "amount": "5"})
    assert Wallet("a").credit(amount=Decimal(1)).input == {"key": "a", "amount": "1", "note": ""}


def test_sound_class_has_no_problems_and_inherits_handlers() -> None:
    class Base(VirtualObject[Count]):
        abstract = True

        @exclusive
        def add(self, by: int = 1) -> int:
            self.state.value += by
            return self.state.value

    class Meter(Base):
        class Meta:
            name = "meter"

        @shared
        def value(self) -> int:
            return self.state.value

    assert problems(Meter) == set()
    assert Meter("a").add(2).workflow == "meter.add"


def test_mistakes_of_a_class_are_found() -> None:
    class Needy(BaseModel):
        must: int

    class Bad(VirtualObject[Needy]):
        class Meta:
            name = "bad"

        @exclusive
        def state(self) -> None: ...  # type: ignore[override]

        @exclusive
        def many(self, *values: int) -> None: ...

        @exclusive
        def keyed(self, key: str) -> None: ...

        @exclusive
        def odd(self, value: object(), other: "Wallet") -> None: ...  # type: ignore[valid-type]

        @exclusive
        def waits(self, amount: int) -> ObjectCall[int]:
            return Wallet("a").debit(Decimal(amount))  # type: ignore[return-value]

        @exclusive
        def undone(self, amount: int) -> ObjectCall[int]:
            return Wallet("a").debit(Decimal(amount))  # type: ignore[return-value]

        @undone.undo
        def not_so(self, amount: str, sum: int) -> None: ...

        @shared
        def looks(self) -> ObjectCall[int]:
            return Wallet("a").debit(Decimal(1))  # type: ignore[return-value]

        @shared
        def twice(self) -> int:
            return 1

        @shared  # type: ignore[no-redef]
        def twice(self) -> int:  # noqa: F811
            return 2

    assert problems(Bad) == {"E008", "E020", "E021", "E022", "E023", "E024", "W020"}
    with pytest.raises(DefinitionError):
        find_definition("bad.waits").require_sound()  # type: ignore[union-attr]
    told = [message for message in check_definitions(None) if "Bad." in message.msg]
    assert len(told) == len({message.msg for message in told}), "once, not once per handler"


@pytest.mark.parametrize("name", ["", "a:b", "a{b}"])
def test_class_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=r"Meta\.name"):
        types.new_class(
            "Bad",
            (VirtualObject[Count],),
            exec_body=lambda body: body.update(Meta=type("Meta", (), {"name": name})),
        )


def test_class_without_state_or_without_exclusive_handler_is_refused() -> None:
    with pytest.raises(DefinitionError, match="at least one @exclusive"):

        class Idle(VirtualObject[Count]):
            class Meta:
                name = "idle"

    with pytest.raises(DefinitionError, match="with a pydantic model"):

        class Stateless(VirtualObject):  # type: ignore[type-arg]
            class Meta:
                name = "stateless"


def test_two_classes_of_one_name_are_told() -> None:
    class One(VirtualObject[Count]):
        class Meta:
            name = "one"

        @exclusive
        def add(self) -> None: ...

    class Other(VirtualObject[Count]):
        class Meta:
            name = "one"

        @exclusive
        def add(self) -> None: ...

    assert find_object("one") is One.definition
    assert any("one.add" in message.msg for message in check_definitions(None))
