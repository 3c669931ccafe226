"""The checker of recorded histories finds what is wrong with a list: else a green fault suite would prove nothing."""

import pytest

from tests.faults.linearizability import Appended, Read, violations

GOOD = [Appended("a", 0, 1, 1), Appended("b", 2, 3, 2), Appended("c", 2, None)]


def read(values: str, invoked: float, returned: float, version: int | None = None) -> Read:
    return Read(tuple(values), len(values) if version is None else version, invoked, returned)


def test_history_that_one_writer_could_have_made_is_good() -> None:
    reads = [read("", 0, 0.5), read("a", 0.5, 2.5), read("ab", 2.5, 2.9), read("abc", 4, 5)]
    assert violations(GOOD, reads, "abc", 3) == []
    assert violations(GOOD, reads[:3], "ab", 2) == [], "what was not acknowledged may be missing"
    assert violations(GOOD, [read("", 2, 2.5)], "acb", 3) != [], "b was told that it is the second"


@pytest.mark.parametrize(
    ("final", "version", "says"),
    [
        ("a", 1, "b was acknowledged, and is lost"),
        ("abb", 3, "b stands there 2 times"),
        ("abx", 3, "x was never sent"),
        ("ab", 3, "version 3 of a list of 2"),
        ("ba", 2, "a is at 1"),
    ],
)
def test_final_list_that_lost_or_doubled_something_is_found(final: str, version: int, says: str) -> None:
    assert any(each.startswith(says) for each in violations(GOOD, [], final, version))


def test_appends_in_the_wrong_order_are_found() -> None:
    swapped = [Appended("a", 0, 1), Appended("b", 2, 3)]
    assert violations(swapped, [], "ba", 2) == ["a had ended when b began, and stands behind it"]
    assert violations([Appended("a", 0, 2), Appended("b", 1, 3)], [], "ba", 2) == [], "at the same time"


@pytest.mark.parametrize(
    ("reads", "says"),
    [
        ([read("b", 4, 5)], "no beginning of the list"),
        ([read("ab", 4, 5, 7)], "version 7 of a list of 2"),
        ([read("ab", 1, 2), read("a", 2.5, 3)], "1 values after one that saw 2"),
        ([read("a", 4, 5)], "b was acknowledged, and a later read did not see it"),
        ([read("ab", 0, 1.5)], "a read saw b before it was sent"),
    ],
)
def test_reads_that_do_not_fit_are_found(reads: list[Read], says: str) -> None:
    assert any(says in each for each in violations(GOOD, reads, "ab", 2))
