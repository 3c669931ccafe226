"""The README's workflow is one that this engine takes."""

import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest


def test_the_readmes_workflow_is_accepted_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.definition._REGISTRY", {})
    section = (Path(__file__).parents[2] / "README.md").read_text().split("## A workflow of one's own")[1]
    code = textwrap.dedent(section.split("\n\n`RefundOrder.start")[0])
    shop = ModuleType("shop.models")
    shop.Refund = shop.bank = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.models", shop)
    module = ModuleType("shop.workflows")
    monkeypatch.setitem(sys.modules, "shop.workflows", module)
    exec(compile(code, "README.md", "exec"), module.__dict__)
    definition = module.__dict__["RefundOrder"].definition
    assert [step.name for step in definition.steps] == ["reserve", "pay", "tell_bank"]
    assert definition.key == "order:{input.order}"
    assert len([line for line in code.splitlines() if line.strip()]) <= 34
