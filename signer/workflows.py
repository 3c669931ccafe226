"""The signer's own workflow: filling a lane up from its treasury."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from signer import chains, topping_up
from signer.errors import RpcError
from signer.models import Lane
from signer.requests import Receipt, TransactionRequest
from signer.ringing import after_commit, ring_lane
from signer.rpc import quantity
from workflows import Retry, TransientError, Workflow, step

# A node that is away for a while: the lane is no better off with a failed run.
PATIENT = Retry(attempts=20, cap=120)


class TopUpInput(BaseModel):
    """Which lane. From where, up to which level and how much in a day is in its rule, whoever starts the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lane: UUID


class ToppedUp(BaseModel):
    """The transfer, or None where nothing was missing any more or the day's cap was used up."""

    transaction_hash: str | None


class TopUpLane(Workflow[TopUpInput, ToppedUp]):
    """Fill a lane up to its level, as its rule allows."""

    class Meta:
        name, version = "signer.top_up", 1
        key = "top_up:{input.lane}"  # the second one looks at the balance after the first has ended
        retention_days = 90

    @step(retry=PATIENT)
    def read_balance(self, input: TopUpInput) -> str:
        """Ask the chain what the lane has now, in wei: what was seen when the run was started may be old."""
        lane = Lane.objects.select_related("chain").get(pk=input.lane)
        try:
            [answer] = chains.connect(lane.chain).agreed([("eth_getBalance", [lane.address, "latest"])])
            if isinstance(answer, RpcError):
                raise answer
            return str(quantity(answer))
        except RpcError as error:
            raise TransientError("CHAIN_UNREACHABLE", error.message) from None

    @step(undo=False, retry=Retry(attempts=10))  # the money is in our own lane
    def fund(self, input: TopUpInput, read_balance: str) -> list[TransactionRequest]:
        """Transfer what is missing; reserved from the day's cap in the commit that makes the transaction."""
        transfer = topping_up.transfer(topping_up.find_rule(input.lane), int(read_balance))
        return [] if transfer is None else [transfer]

    @step(effect="transactional")
    def note(self, input: TopUpInput, fund: list[Receipt]) -> ToppedUp:
        """Note the transfer with the rule, and have the lane go on at once."""
        topping_up.settle(input.lane)
        after_commit(lambda: ring_lane(input.lane))
        return ToppedUp(transaction_hash=fund[0].transaction_hash if fund else None)
