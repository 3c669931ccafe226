"""What a person decides about a chain, and why."""

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget

from signer.admin.ether import GweiField
from signer.admin.reasoned import ReasonedForm
from signer.models import Chain
from signer.requests import checksummed


class ChainForm(ReasonedForm):
    """How a chain is used."""

    max_fee_per_gas_wei = GweiField(
        label="Ceiling of the fee, in gwei",
        help_text="Nothing is offered above it, whatever the market asks.",
    )
    l1_fee_oracle = forms.CharField(
        label="L1 fee oracle",
        required=False,
        widget=UnfoldAdminTextInputWidget(),
        help_text="The contract that says what the data costs on the chain below (OP Stack: GasPriceOracle); empty: nothing.",
    )

    class Meta:
        model = Chain
        fields = (
            "name",
            "confirmations",
            "finality",
            "block_time_ms",
            "max_in_flight",
            "max_in_flight_adaptive",
            "max_fee_per_gas_wei",
            "ceiling_percent",
            "foreign_nonces",
            "l1_fee_oracle",
        )
        help_texts = {
            "confirmations": "Blocks, the first one included, until a transaction is final.",
            "finality": "Where the chain itself says which block is final, its word can decide instead.",
            "max_in_flight": "Of each address. 16 is what every node takes.",
            "max_in_flight_adaptive": "Up to so many, where your own nodes take them. Empty: no more than above.",
            "ceiling_percent": "A fee above this share of the market's is taken for a mistake.",
            "foreign_nonces": "Another nonce is safe only where others are known to sign with the same keys: after a restored backup it "
            "executes again what the lost rows had executed.",
        }

    def clean_l1_fee_oracle(self) -> str:
        entered = str(self.cleaned_data["l1_fee_oracle"]).strip()
        try:
            return checksummed(entered) if entered else ""
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None

    def clean(self) -> Any:
        given: dict[str, Any] = super().clean() or {}
        adaptive, least = given.get("max_in_flight_adaptive"), given.get("max_in_flight")
        if adaptive and least and adaptive < least:
            self.add_error("max_in_flight_adaptive", "It is less than what every lane may have anyway.")
        return given
