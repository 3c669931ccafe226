"""Callers with a token of each role. Imported before Django's apps are loaded, hence the late imports."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.callers import Caller


@pytest.fixture
def caller(db: None) -> "Callable[..., Caller]":
    from tests.api.callers import Caller

    return Caller


@pytest.fixture
def operator(caller: "Callable[..., Caller]") -> "Caller":
    return caller("operator")


@pytest.fixture
def viewer(caller: "Callable[..., Caller]") -> "Caller":
    return caller("viewer")
