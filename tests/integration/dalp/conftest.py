"""Ann, who may see and change keys."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@pytest.fixture
def ann(db: None) -> "User":
    # Where pytest is given this directory, it reads this file before Django is set up.
    from tests.integration.keyguard.people import someone

    return someone("ann", may="view_key change_key")
