"""Virtual objects: entities with a key, a state that is kept, and one writer at a time. Callers use no lock.

    class Wallet(VirtualObject[WalletState]):
        class Meta:
            name, version, queue = "wallet", 1, "wallets"

        @exclusive
        def debit(self, amount: Decimal) -> Decimal:
            self.state.balance -= amount
            return self.state.balance

        @shared
        def balance(self) -> Decimal:
            return self.state.balance

`Wallet("acct-7").debit(5)` is a command: a step returns it and waits for the result; anybody else calls `.start()` on
it. Each exclusive call is a run that holds the key `wallet:acct-7`; the others wait behind it, first come first
served. What it changes in `self.state` is committed with its checkpoint: exactly once.
`Wallet("acct-7").balance()` is answered at once, from the state as it was last committed.
"""

from workflows.objects.definition import ObjectDefinition, find_object, objects
from workflows.objects.handlers import Exclusive, ObjectCall, Shared, exclusive, shared
from workflows.objects.virtual import VirtualObject

__all__ = [
    "Exclusive",
    "ObjectCall",
    "ObjectDefinition",
    "Shared",
    "VirtualObject",
    "exclusive",
    "find_object",
    "objects",
    "shared",
]
