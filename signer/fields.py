"""The column for amounts of wei: keyguard's, which holds any unsigned 256-bit integer."""

from typing import TYPE_CHECKING

from django.db import models

from keyguard.fields import Uint256Field

if TYPE_CHECKING:

    class WeiField(models.Field[int, int]):
        """Never NULL here."""

else:
    WeiField = Uint256Field
