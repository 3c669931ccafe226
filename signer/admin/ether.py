"""Amounts of wei as people enter and read them: in ether, exactly."""

from decimal import Context, Decimal
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from signer.sentences import in_ether

DECIMALS = 18
# More digits than 2^256 - 1 wei has: nothing is rounded.
EXACT = Context(prec=120)
MOST_WEI = 2**256 - 1


class EtherField(forms.DecimalField):
    """Takes ether, gives whole wei."""

    widget = UnfoldAdminTextInputWidget
    decimals = DECIMALS

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, decimal_places=self.decimals, max_digits=78, **options)

    def prepare_value(self, value: Any) -> Any:
        """Return the text to edit: of an amount in wei its ether; what was typed as it was typed."""
        return self.text_of(value) if isinstance(value, int) else value

    def text_of(self, wei: int) -> str:
        """Return the amount as people write it."""
        return in_ether(wei)

    def clean(self, value: Any) -> int | None:
        """Return whole wei, None where nothing was entered."""
        ether: Decimal | None = super().clean(value)
        if ether is None:
            return None
        wei = int(EXACT.scaleb(ether, self.decimals))
        if wei > MOST_WEI:
            raise forms.ValidationError("More than 2^256 - 1 wei.")
        return wei

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return whether another amount was entered, however it is written."""
        try:
            return bool(self.clean(data) != initial)
        except forms.ValidationError:
            return True


class GweiField(EtherField):
    """Takes gwei, gives whole wei."""

    decimals = 9

    def text_of(self, wei: int) -> str:
        return f"{EXACT.scaleb(Decimal(wei), -self.decimals).normalize(EXACT):f}"
