"""Calls as a custody is asked to execute them: no nonce, no fee, no type; those are the custody's own. Pure."""

from dataclasses import dataclass, field

from keyguard.rlp_items import integer, sequence, string


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has passed the floor. Gas limit and ceiling are hints: the custody may think otherwise."""

    chain_id: int
    to: bytes  # 20 bytes, or none to create a contract
    value: int
    data: bytes = field(repr=False)
    gas_limit: int | None = None
    max_fee_per_gas_wei: int | None = None

    def payload(self) -> bytes:
        """Return what makes it this call and no other; the hints may differ from one day to the next."""
        return sequence([integer(self.chain_id), string(self.to), integer(self.value), string(self.data)])
