"""Virtual objects for the tests of the engine."""

from decimal import Decimal

from pydantic import BaseModel, Field

from workflows import (
    Child,
    ObjectCall,
    PermanentError,
    Retry,
    StepFailure,
    TransientError,
    VirtualObject,
    WaitForSignal,
    Workflow,
    exclusive,
    shared,
    step,
)


class WalletState(BaseModel):
    balance: Decimal = Decimal(0)
    holds: list[str] = []


class Wallet(VirtualObject[WalletState]):
    """Money under a key."""

    class Meta:
        name, version, queue = "wallet", 1, "workflows"

    @exclusive
    def credit(self, amount: Decimal, note: str = "") -> Decimal:
        """Put money in."""
        self.state.balance += amount
        if note:
            self.state.holds.append(note)
        return self.state.balance

    @exclusive(retry=Retry(attempts=2, first=0.01))
    def debit(self, amount: Decimal) -> Decimal:
        """Take money out."""
        self.state.balance -= amount
        if self.state.balance < 0:
            raise PermanentError("WALLET_EMPTY", f"{self.key} has not so much")
        return self.state.balance

    @exclusive
    def transfer(self, to: str, amount: Decimal) -> ObjectCall[Decimal]:
        """Take money out, and hold the wallet until it has arrived in another one."""
        if amount > self.state.balance:
            raise PermanentError("WALLET_EMPTY", f"{self.key} has not so much")
        self.state.balance -= amount
        return Wallet(to).receive(amount)

    @transfer.undo
    def take_back(self, amount: Decimal, failure: StepFailure) -> None:
        self.state.balance += amount
        self.state.holds.append(failure.code)

    @exclusive
    def receive(self, amount: Decimal) -> Decimal:
        """Take in what another wallet sends; not more than a hundred."""
        if amount > 100:
            raise PermanentError("WALLET_LIMIT", "not more than a hundred")
        self.state.balance += amount
        return self.state.balance

    @exclusive(undo=False)
    def ask(self, question: str) -> WaitForSignal[str]:
        """Hold the wallet until somebody has answered."""
        self.state.holds.append(question)
        return WaitForSignal[str](name="answer")

    @exclusive(undo=False)
    def again(self, amount: Decimal) -> ObjectCall[Decimal]:
        """Call itself, which can never end."""
        return self.credit(amount)

    @exclusive(undo=False)
    def through(self, via: str) -> Child[Decimal]:
        """Call itself by way of a workflow."""
        return Detour.child(DetourInput(wallet=self.key, via=via))

    @exclusive(retry=Retry(attempts=2, first=0.01))
    def break_down(self, how: str) -> int:
        """Fail as it is told, after a change."""
        self.state.balance += 1000
        if how == "transient":
            raise TransientError("NOT_NOW", "not now")
        if how == "bad_state":
            self.state.balance = "many"  # type: ignore[assignment]
        if how == "large":
            self.state.holds = ["x" * 2_000_000]
        if how == "bug":
            raise ZeroDivisionError("a bug")
        return "no number" if how == "bad_output" else 1  # type: ignore[return-value]

    @shared
    def balance(self) -> Decimal:
        return self.state.balance

    @shared
    def enough(self, amount: Decimal) -> bool:
        return self.balance() >= amount

    @shared
    def seen(self) -> tuple[Decimal, list[str], int]:
        return self.state.balance, self.state.holds, self.version

    @shared
    def meddle(self, how: str) -> None:
        if how == "assign":
            self.state.balance = Decimal(1)
        elif how == "inside":
            self.state.holds.append("x")
        elif how == "replace":
            self.state = WalletState()


class DetourInput(BaseModel):
    wallet: str
    via: str = ""


class Detour(Workflow[DetourInput, Decimal]):
    """A workflow that calls a wallet."""

    class Meta:
        name = "sample.detour"

    @step
    def call(self, input: DetourInput) -> ObjectCall[Decimal]:
        return Wallet(input.wallet).credit(Decimal(1))


class PaymentInput(BaseModel):
    payer: str
    payee: str
    amount: Decimal = Field(gt=0)


class Payment(Workflow[PaymentInput, Decimal]):
    """Two wallets, one after the other; the first call is taken back when the second fails."""

    class Meta:
        name = "sample.payment"

    @step
    def take(self, input: PaymentInput) -> ObjectCall[Decimal]:
        return Wallet(input.payer).debit(input.amount)

    @take.undo
    def give_back(self, input: PaymentInput) -> ObjectCall[Decimal]:
        return Wallet(input.payer).credit(input.amount)

    @step
    def pay(self, input: PaymentInput, take: Decimal) -> ObjectCall[Decimal]:
        return Wallet(input.payee).receive(input.amount)


class PairInput(BaseModel):
    holder: str
    wants: str


class Holds(Workflow[PairInput, Decimal]):
    """A workflow that holds a wallet for as long as it lives, and calls another meanwhile."""

    class Meta:
        name, key = "sample.holds", "wallet:{input.holder}"

    @step
    def wait(self) -> WaitForSignal[str]:
        return WaitForSignal[str](name="go")

    @step
    def call(self, input: PairInput) -> ObjectCall[Decimal]:
        return Wallet(input.wants).credit(Decimal(1))


class ListState(BaseModel):
    values: list[str] = []


class Append(VirtualObject[ListState]):
    """A list that only grows: what a history of its calls can be checked against."""

    class Meta:
        name = "append"

    @exclusive
    def append(self, value: str) -> int:
        self.state.values.append(value)
        return len(self.state.values)

    @shared
    def read(self) -> tuple[list[str], int]:
        return self.state.values, self.version


class Released(VirtualObject[ListState]):
    """Its holder gives it away when it waits for a person."""

    class Meta:
        name, on_dead_letter = "released", "release"

    @exclusive(retry=Retry(attempts=1))
    def append(self, value: str, fail: str = "") -> int:
        if fail and fail not in self.state.values:
            raise TransientError("NOT_NOW", "not now")
        self.state.values.append(value)
        return len(self.state.values)

    @exclusive(undo=False)
    def ask(self, value: str) -> WaitForSignal[int]:
        self.state.values.append(value)
        return WaitForSignal[int](name="answer")

    @shared
    def read(self) -> list[str]:
        return self.state.values


class Parked(VirtualObject[ListState]):
    """It takes nothing new while its holder waits for a person."""

    class Meta:
        name, on_dead_letter = "parked", "park"

    @exclusive(retry=Retry(attempts=1))
    def append(self, value: str, fail: bool = False) -> int:
        if fail:
            raise TransientError("NOT_NOW", "not now")
        self.state.values.append(value)
        return len(self.state.values)
