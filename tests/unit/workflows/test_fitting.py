"""Which output fits which parameter."""

from pydantic import BaseModel

from workflows import First
from workflows.fitting import fits


class Payment(BaseModel):
    amount: int


def test_the_order_of_alternatives_inside_a_model_does_not_matter() -> None:
    assert fits(First[Payment | None], First[None | Payment])


def test_what_a_model_is_made_of_must_fit() -> None:
    assert fits(First[Payment], First[Payment | None])
    assert not fits(First[Payment | None], First[Payment])
    assert not fits(First[str], First[int])
