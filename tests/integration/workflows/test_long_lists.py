"""A step for each item of a long list: inserted in batches, joined as a set, whatever dies on the way."""

from collections import Counter
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pydantic import BaseModel

from workflows import Operation, Workflow, step
from workflows.engine.drive import advance
from workflows.models import Run, Step
from workflows.states import RunState
from workflows.testing import Engine

ITEMS = 3_000
done: Counter[str] = Counter()


class Payees(BaseModel):
    count: int


class PayAll(Workflow[Payees, int]):
    class Meta:
        name = "lists.pay_all"

    @step(each=lambda input: list(range(input.count)))
    def pay(self, item: int, operation: Operation) -> int:
        done[operation.id] += 1
        return item

    @step
    def total(self, pay: list[int]) -> int:
        assert pay == list(range(len(pay))), "in the order of the items"
        return sum(pay)


@pytest.mark.timeout(120)
def test_items_of_a_long_list_are_inserted_in_batches_and_joined_once(t: Engine) -> None:
    done.clear()
    run = t.start(PayAll, Payees(count=ITEMS))
    with t.crash("engine.branching", at=2):
        advance(run.pk)
    half = set(Run.objects.filter(parent=run).values_list("branch", "pk"))
    assert len(half) == 2000, "a thousand in each transaction"
    with CaptureQueriesContext(connection) as asked:
        advance(run.pk)
    branches: Any = Run.objects.filter(parent=run)
    assert half < set(branches.values_list("branch", "pk")), "those that were there are not made again"
    assert set(branches.values_list("branch", flat=True)) == {f"pay#{number}" for number in range(ITEMS)}
    assert len(asked) < 100, "for a thousand of them"
    for branch in branches.only("pk").iterator():
        advance(branch.pk)
    assert t.run(run).state == RunState.SUCCEEDED
    assert run.output == sum(range(ITEMS))
    assert set(done.values()) == {1}
    assert len(done) == ITEMS == Step.objects.filter(run=run, name="pay").count()
    assert run.events.filter(kind="branches_ended").count() == 1
