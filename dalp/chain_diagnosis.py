"""The doctor's look at chains, lanes and keys. Reads our rows and asks the nodes; sends nothing."""

import time
from datetime import timedelta

from django.db.models import Count, Min
from django.utils import timezone

from dalp.diagnosis import Finding, first_line
from keyguard import KeyguardError
from keyguard.kek import open_kek
from keyguard.models import Kek, Key
from keyguard.states import KeyState
from signer import SignerError, check_chain
from signer.chains import connect
from signer.models import Chain, Lane, Transaction
from signer.money import lanes_low_on_money, words
from signer.states import IN_FLIGHT, WAITING, LaneState

# A head this many blocks old is a node that has stopped following its chain.
LATE_BLOCKS = 20
LATE_SECONDS_MIN = 30
STUCK_AFTER = timedelta(minutes=10)


def check_chains() -> list[Finding]:
    """Ask each chain's node who it is and how old its newest block is."""
    chains = list(Chain.objects.order_by("chain_id"))
    if not chains:
        return [Finding("chains", True, "none registered", "")]
    return [check_chain_head(chain) for chain in chains]


def check_chain_head(chain: Chain) -> Finding:
    """Look at one chain's head."""
    name = f"chain {chain.chain_id}"
    remedy = f"Check the node; `manage.py add_chain --chain-id {chain.chain_id}` corrects its URL."
    try:
        check_chain(chain)
        head = connect(chain).call("eth_getBlockByNumber", "latest", False)
    except SignerError as error:
        return Finding(name, False, first_line(error), remedy)
    number, age = int(head["number"], 16), time.time() - int(head["timestamp"], 16)
    late = max(LATE_SECONDS_MIN, LATE_BLOCKS * chain.block_time_ms / 1000)
    detail = f"{chain.name}: block {number}, {max(age, 0):.0f} s old"
    return Finding(name, age < late, detail, remedy)


def check_lanes() -> list[Finding]:
    """Look for lanes that are blocked or whose head does not move."""
    findings = []
    for lane in Lane.objects.select_related("chain").order_by("chain_id", "address"):
        name = f"lane {lane.chain_id}/{lane.address}"
        waiting = Transaction.objects.filter(lane=lane, state__in=WAITING).count()
        flying = Transaction.objects.filter(lane=lane, state__in=IN_FLIGHT).aggregate(
            count=Count("pk"), since=Min("broadcast_at")
        )
        detail = f"{waiting} waiting, {flying['count']} in flight, next nonce {lane.next_nonce}"
        if lane.state == LaneState.BLOCKED:
            findings.append(
                Finding(name, False, f"blocked: {lane.state_reason}", "Find out who else uses the key.")
            )
        elif flying["since"] and timezone.now() - flying["since"] > STUCK_AFTER:
            minutes = (timezone.now() - flying["since"]).seconds // 60
            remedy = "Look at its oldest transaction in the admin: fee ceiling, funds, node."
            findings.append(
                Finding(name, False, f"its head has not moved for {minutes} min; {detail}", remedy)
            )
        else:
            findings.append(Finding(name, True, detail))
    return findings


def check_money() -> list[Finding]:
    """Look for lanes that are low on money. A fault only where something stands still for it."""
    findings = []
    for money in lanes_low_on_money():
        remedy = "Send the address money; what waits goes on by itself. /admin/signer/lanemoney/ says what it spends."
        name = f"money of lane {money.lane.chain_id}/{money.lane.address}"
        findings.append(Finding(name, not money.waits, f"low: {words(money)}", remedy))
    return findings


def check_keys() -> list[Finding]:
    """Look whether the key-encryption key at hand is the one the keys are kept under, and for suspended keys."""
    remedy = "Set KEYGUARD_KEK to the key-encryption key that this database was filled with."
    for kek in Kek.objects.all():
        try:
            open_kek(kek)
        except KeyguardError as error:
            return [Finding("keys", False, f"{error.code}: {first_line(error)}", error.remedy or remedy)]
    suspended = Key.objects.filter(state=KeyState.SUSPENDED).order_by("alias")
    count = Key.objects.count()
    if suspended:
        detail = "; ".join(f"{key.alias} is suspended ({key.state_reason})" for key in suspended[:10])
        return [
            Finding("keys", False, detail, "Find out who touched the database; restore or replace the key.")
        ]
    return [Finding("keys", True, f"{count} keys, the key-encryption key fits")]
