"""Identifiers that sort by the time they were made."""

import uuid

from workflows import uuid7


def test_identifiers_of_one_process_sort_as_they_were_made() -> None:
    made = [uuid7() for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_identifier_is_of_version_7() -> None:
    assert {(each.version, each.variant) for each in (uuid7(), uuid7())} == {(7, uuid.RFC_4122)}
