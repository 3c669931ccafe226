"""For pytest: `pytest_plugins = ["workflows.testing.fixtures"]` in a conftest.py, and `workflow_engine` in a test."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workflows.testing.inprocess import Engine


@pytest.fixture
def workflow_engine(db: None) -> "Iterator[Engine]":
    """The engine in this process, on a database that is rolled back after the test."""
    from workflows.testing.inprocess import engine  # Django is not set up yet when pytest reads this file

    with engine() as t:
        yield t
