"""The doctor's look at the event index: how far it is behind, whether its handlers work, whether it equals the chain."""

from dalp.diagnosis import Finding
from signer import Holding, SignerError, WatchedContract, compare_holders, index_status
from signer.events.status import ContractStatus, IndexStatus
from signer.models import EventIndex

# A chain that makes blocks faster than this many in ten seconds is read in larger steps.
LATE_BLOCKS_MIN, LATE_SECONDS = 20, 60
# The doctor runs every hour: so many tokens, and of each so many holders, those that changed last.
TOKENS, HOLDERS = 20, 200


def check_event_index() -> list[Finding]:
    """Look how far each chain's logs are read, and hold who holds what against the chain."""
    findings = []
    for index in EventIndex.objects.select_related("chain").order_by("pk"):
        status = index_status(index.pk)
        assert status is not None
        findings.append(_reading(status, index.chain.block_time_ms))
        findings += [_failing(index.pk, each) for each in status.contracts if each.state == "FAILED"]
    return [*findings, *_check_holders()]


def _reading(status: IndexStatus, block_time_ms: int) -> Finding:
    name, remedy = (
        f"event index {status.chain_id}",
        "Look at its page in the admin; check the node and the workers.",
    )
    if status.failing_since is not None:
        since = f"{status.failing_since:%Y-%m-%d %H:%M:%S} UTC"
        return Finding(name, False, f"not read since {since}: {status.last_error}", remedy)
    if status.read_number is None or status.lag_blocks is None:
        return Finding(name, True, f"{len(status.contracts)} contracts, nothing read yet")
    late = max(LATE_BLOCKS_MIN, LATE_SECONDS * 1000 // block_time_ms)
    detail = (
        f"{len(status.contracts)} contracts, read to block {status.read_number}, {status.lag_blocks} behind, "
        f"final to {status.final_number}"
    )
    return Finding(name, status.lag_blocks < late, detail, remedy)


def _failing(chain_id: int, contract: ContractStatus) -> Finding:
    remedy = "Mend the handler or its data; it is tried again by itself, or at once with Resume in the admin."
    return Finding(
        f"events of {contract.label or contract.address}",
        False,
        f"chain {chain_id}: {contract.last_error}",
        remedy,
    )


def _check_holders() -> list[Finding]:
    """Compare the tokens that changed last. One that is read on meanwhile is left for the next time."""
    newest = WatchedContract.objects.filter(
        handler="erc20.holders", state="ACTIVE", own_number__isnull=True
    ).order_by("-created_at")
    findings, compared = [], 0
    for contract in newest[:TOKENS]:
        try:
            differences = compare_holders(contract.index_id, contract.address, most=HOLDERS)
        except SignerError:
            continue
        compared += 1
        if differences:
            remedy = "Have the contract read again from its first block, in the admin; find out who altered its rows."
            first = ", ".join(map(str, differences[:3]))
            findings.append(Finding("holders", False, f"{len(differences)} differ: {first}", remedy))
    if Holding.objects.exists() and not findings:
        return [Finding("holders", True, f"{compared} tokens compared with their chains, all equal")]
    return findings
