"""What a transaction costs before any of its code runs. Pure.

The least of all chains and forks: what is below it is executed nowhere. Most nodes refuse such a transaction; EthereumJS
takes it and never puts it in a block, and behind it the lane would stand still.
"""

TRANSACTION_GAS = 21_000
CREATION_GAS = 32_000  # EIP-2
ZERO_BYTE_GAS, BYTE_GAS = 4, 16  # EIP-2028
ADDRESS_GAS, SLOT_GAS = 2_400, 1_900  # EIP-2930
AUTHORIZATION_GAS = 25_000  # EIP-7702


def least_gas(data: str, *, creates: bool, addresses: int, slots: int, authorizations: int = 0) -> int:
    """Return the gas that a transaction needs at least.

    data: 0x text. addresses, slots: in the access list. authorizations: how many.
    """
    body = bytes.fromhex(data.removeprefix("0x"))
    zeros = body.count(0)
    return (
        TRANSACTION_GAS
        + zeros * ZERO_BYTE_GAS
        + (len(body) - zeros) * BYTE_GAS
        + (CREATION_GAS if creates else 0)
        + addresses * ADDRESS_GAS
        + slots * SLOT_GAS
        + authorizations * AUTHORIZATION_GAS
    )
