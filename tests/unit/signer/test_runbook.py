"""Every kind of incident has a section in docs/operating.md that says what to do."""

import pytest

from signer.runbook import sections, what_to_do
from signer.states import IncidentKind


@pytest.mark.parametrize("kind", IncidentKind.values)
def test_every_kind_says_what_to_do(kind: str) -> None:
    text = what_to_do(kind)
    assert text == sections()[kind]
    assert "\n1. " in text, "steps to take"
    assert not set("`*[]") & set(text), "plain text"


def test_there_is_no_section_for_a_kind_that_is_gone() -> None:
    assert set(sections()) == set(IncidentKind.values)


def test_without_the_page_it_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signer.runbook.sections", dict)
    assert what_to_do("LOW_BALANCE") == "See docs/operating.md, section LOW_BALANCE."
