"""The doctor's look at chains, lanes and keys. Reads our rows and asks the nodes; sends nothing."""

import time
from datetime import timedelta

from django.conf import settings
from django.db.models import Count, Min
from django.utils import timezone

from dalp.diagnosis import Finding, first_line
from keyguard import destroying, health, lifecycle, scrub_secrets
from keyguard.health import HealthState
from keyguard.models import Kek, Key
from keyguard.sealing import open_sealings
from keyguard.states import KekState, KeyState
from signer import SignerError
from signer.chains import look_at
from signer.models import Chain, Endpoint, Lane, Transaction
from signer.money import lanes_low_on_money, words
from signer.sentences import why_unused
from signer.states import IN_FLIGHT, WAITING, LaneState

# A head this many blocks old is a node that has stopped following its chain.
LATE_BLOCKS = 20
LATE_SECONDS_MIN = 30
STUCK_AFTER = timedelta(minutes=10)
# Words on paper fade, are lost, and their keepers leave.
DRILL_DAYS = 90


def check_chains() -> list[Finding]:
    """Ask each chain's nodes who they are and how old their newest blocks are."""
    chains = list(Chain.objects.order_by("chain_id"))
    if not chains:
        return [Finding("chains", True, "none registered", "")]
    return [finding for chain in chains for finding in check_chain(chain)]


def check_chain(chain: Chain) -> list[Finding]:
    """Look at each of a chain's endpoints; the chain itself is well when one of them can be used."""
    endpoints = list(Endpoint.objects.filter(chain=chain))
    found = [check_endpoint(chain, endpoint) for endpoint in endpoints]
    well = [finding for finding in found if finding.ok]
    name = f"chain {chain.chain_id}"
    if len(endpoints) == 1:
        return [Finding(name, found[0].ok, f"{chain.name}: {found[0].detail}", found[0].remedy)]
    remedy = f"`manage.py add_chain --chain-id {chain.chain_id}` corrects its URLs."
    return [
        Finding(name, bool(well), f"{chain.name}: {len(well)} of {len(found)} nodes are well", remedy),
        *found,
    ]


def check_endpoint(chain: Chain, endpoint: Endpoint) -> Finding:
    """Ask one node, past every pause, and say what our rows know of it."""
    name = f"chain {chain.chain_id}, {endpoint.host} ({endpoint.position})"
    remedy = f"Check the node; `manage.py add_chain --chain-id {chain.chain_id}` corrects its URL."
    began = time.monotonic()
    try:
        head = look_at(endpoint.url, chain)
    except SignerError as error:
        return Finding(name, False, first_line(error), remedy)
    milliseconds = (time.monotonic() - began) * 1000
    number, age = int(head["number"], 16), time.time() - int(head["timestamp"], 16)
    late = max(LATE_SECONDS_MIN, LATE_BLOCKS * chain.block_time_ms / 1000)
    detail = (
        f"block {number}, {max(age, 0):.0f} s old; answers in {milliseconds:.0f} ms; weight {endpoint.weight}"
    )
    unused = why_unused(endpoint, timezone.now())
    return Finding(name, age < late and not unused, "; ".join(filter(None, (detail, unused))), remedy)


def check_nodes() -> list[Finding]:
    """Look whether any chain can be used, by our rows alone: for a probe that comes every few seconds."""
    now = timezone.now()
    endpoints = list(Endpoint.objects.select_related("chain"))
    unused = {endpoint: why_unused(endpoint, now) for endpoint in endpoints}
    if not endpoints or not all(unused.values()):
        return [Finding("chains", True, "one can be used" if endpoints else "none registered")]
    detail = "; ".join(f"{endpoint.chain}, {endpoint.host} {why}" for endpoint, why in unused.items())
    return [Finding("chains", False, detail, "`manage.py doctor` asks the nodes themselves.")]


def check_lanes() -> list[Finding]:
    """Look for lanes that are blocked or whose head does not move."""
    findings = []
    for lane in Lane.objects.select_related("chain").order_by("chain_id", "address"):
        name = f"lane {lane.chain_id}/{lane.address}"
        waiting = Transaction.objects.filter(lane=lane, state__in=WAITING).count()
        flying = Transaction.objects.filter(lane=lane, state__in=IN_FLIGHT).aggregate(
            count=Count("pk"), since=Min("broadcast_at")
        )
        nonces = "nonces given by the custody" if lane.in_custody else f"next nonce {lane.next_nonce}"
        detail = f"{waiting} waiting, {flying['count']} in flight, {nonces}"
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
    """Look how each backend and each key encryption key stands, for suspended keys, and for those that end soon."""
    found = [
        Finding(f"keys: {one.name}", one.state == HealthState.OK, str(scrub_secrets(one.words)), one.remedy)
        for one in health.check_all()
    ]
    found += [
        Finding(
            f"key {key.alias}",
            False,
            f"signs until {key.not_after:%Y-%m-%d %H:%M} UTC",
            "Extend it (manage.py change_key ALIAS validity), or hand its roles over to a new key.",
        )
        for key in lifecycle.expiring()
    ]
    found += [
        Finding("keys: seals", False, str(one), "Find out why, then: manage.py unseal. docs/keys.md")
        for one in open_sealings()
    ]
    found += [
        Finding(
            f"key {key.alias}",
            False,
            f"is destroyed, but {key.uri} may still be there",
            "Run manage.py destroy_key again where the backend is reached: it finishes.",
        )
        for key in destroying.unfinished()
    ]
    found += _paper()
    suspended = Key.objects.filter(state=KeyState.SUSPENDED).order_by("alias")
    if suspended:
        detail = "; ".join(f"{key.alias} is suspended ({key.state_reason})" for key in suspended[:10])
        remedy = "Find out who touched the database; restore or replace the key."
        return [*found, Finding("keys", False, detail, remedy)]
    return [*found, Finding("keys", True, f"{Key.objects.count()} keys, none suspended")]


def _paper() -> list[Finding]:
    """Look whether the KEK of the environment is on paper, and whether somebody has tried lately that it can be read."""
    kek = Kek.objects.filter(state=KekState.ACTIVE, provider="env").first()
    if kek is None or settings.DEBUG:
        return []
    last = kek.drills.first()
    lately = last is not None and timezone.now() - last.at < timedelta(days=DRILL_DAYS)
    detail = f"last {last.get_kind_display()} {last.at:%Y-%m-%d}" if last else "it has none"
    remedy = "manage.py kek_ceremony back-up, or drill: docs/keys.md. Without it a lost KEK is the end of its keys."
    return [Finding("keys: backup of the KEK", lately, detail, "" if lately else remedy)]
