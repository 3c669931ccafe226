"""What is marked as sensitive is shown to nobody, wherever it stands in an input or output."""

from typing import Annotated

import pytest
from pydantic import BaseModel, TypeAdapter

from workflows import Retry, StepDefinition, Workflow, step
from workflows.redaction import HIDDEN, Sensitive, shown_input, shown_output


class Card(BaseModel):
    number: Annotated[str, Sensitive]
    holder: str


class Order(BaseModel):
    pin: Annotated[str | None, Sensitive] = None
    card: Card | None = None
    cards: list[Card] = []
    by_name: dict[str, Card] = {}
    pair: tuple[str, Annotated[str, Sensitive]] = ("a", "b")
    amount: int = 1


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.definition._REGISTRY", {})


@pytest.mark.case("E62")
def test_marked_fields_are_hidden_however_deep_they_stand() -> None:
    class Pay(Workflow[Order, Card]):
        class Meta:
            name = "redaction.pay"

        @step
        def pay(self, input: Order) -> Card: ...

    card = {"number": "4111", "holder": "Ada"}
    data = {
        "pin": "1234",
        "card": card,
        "cards": [card, card],
        "by_name": {"a": card},
        "pair": ["open", "closed"],
        "amount": 7,
    }
    hidden = {"number": HIDDEN, "holder": "Ada"}
    assert shown_input(Pay.definition, data) == {
        "pin": HIDDEN,
        "card": hidden,
        "cards": [hidden, hidden],
        "by_name": {"a": hidden},
        "pair": ["open", HIDDEN],
        "amount": 7,
    }
    assert shown_output(Pay.definition.steps[0], card) == hidden
    assert data["card"] == card, "what is stored stays as it is"


@pytest.mark.case("E62")
def test_output_that_is_a_secret_itself_is_hidden() -> None:
    adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, Sensitive])
    token = StepDefinition("s", print, "idempotent", Retry(), "q", (), adapter, "str")
    assert shown_output(token, "secret") == HIDDEN
    plain = StepDefinition("s", print, "idempotent", Retry(), "q", (), TypeAdapter(object), "object")
    assert shown_output(plain, {"a": 1}) == {"a": 1}
