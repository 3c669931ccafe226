"""JSON that somebody else has written: a node, a person who pastes its words."""

from typing import Any

from pydantic_core import from_json


def parse(data: str | bytes) -> Any:
    """Return the value. Raises ValueError.

    Not with `json`: eth-account's libraries raise Python's recursion limit so far that a list nested deeply enough would end
    the process.
    """
    return from_json(data, allow_inf_nan=False)
