"""`make chaos-signer`: ten thousand transactions while workers die and nodes misbehave; then the chains are asked."""

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

from dalp.local import processes
from tests.chaos.__main__ import table
from tests.chaos.stage import patiently
from tests.chaos_signer.stage import Stage
from tests.warm import Nursery


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos_signer", description=__doc__)
    parser.add_argument("--transactions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600, help="over which they are submitted")
    parser.add_argument("--patience", type=float, default=300, help="seconds until the last has ended, then")
    parser.add_argument("--addresses", type=int, default=8)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds")
    parser.add_argument(
        "--dropped", type=float, default=0.05, help="share of the nodes' answers that is lost"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--directory", type=Path, help="where logs go; a new one by default")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="dalp-chaos-signer-"))
    directory.mkdir(parents=True, exist_ok=True)
    # Many die: a cold start of each would leave the machine little time for the work.
    processes.launch = Nursery().launch
    print(f"seed {given.seed}, logs in {directory}", flush=True)
    stage = Stage(directory, given.workers, given.addresses)
    try:
        stage.prepare(given.seed, given.dropped)
        return run(stage, given)
    finally:
        stage.stop()


def run(stage: Stage, given: argparse.Namespace) -> int:
    """Submit, strike, wait, and ask the chains; return 0 when nothing is wrong and the faults really struck."""
    from tests.chaos_signer.faults import Faults
    from tests.chaos_signer.verdict import judge, noticed

    faults = Faults(stage, given.seed, given.kill_every)
    began = time.monotonic()
    requests = submit_all(stage, faults, given)
    faults.heal()
    left = settle(stage, faults, given.patience)
    wrong = judge(stage, requests)
    traces = noticed(stage)
    table(
        "Transactions",
        {"submitted": given.transactions, "not ended": left, "seconds": time.monotonic() - began},
    )
    table("Faults", dict(sorted(faults.struck.items())))
    table("Noticed", traces)
    for text in wrong:
        print(f"  WRONG: {text}")
    needed = [name for name in ("sent again", "answers lost", "reopened after a fork") if not traces[name]]
    needed += [
        kind for kind in ("worker killed", "Redis flushed", "blocks taken back") if not faults.struck[kind]
    ]
    for name in needed:
        print(f"  {name}: never; the faults did not strike, or nothing noticed them")
    clean = not wrong and not left and not needed
    print("passed" if clean else f"FAILED; repeat with --seed {given.seed}", flush=True)
    return 0 if clean else 1


def submit_all(stage: Stage, faults: object, given: argparse.Namespace) -> dict[int, list[int]]:
    """Submit at an even pace to all addresses on both chains in turn, and strike meanwhile. Returns the numbers by chain."""
    from signer import TransactionRequest, submit_transaction

    requests: dict[int, list[int]] = {chain.chain_id: [] for chain in stage.chains}
    places = itertools.cycle(itertools.product(stage.chains, stage.aliases))
    began = time.monotonic()
    for number in range(given.transactions):
        chain, alias = next(places)
        to, data = chain.request(number)
        request = TransactionRequest(
            chain_id=chain.chain_id, sender=alias, to=to, data=data, gas_limit=120_000
        )
        patiently(lambda: submit_transaction(request, idempotency_key=str(number), scope="chaos"))  # noqa: B023
        requests[chain.chain_id].append(number)
        while time.monotonic() - began < given.seconds * number / given.transactions:
            faults.tick()  # type: ignore[attr-defined]
            time.sleep(0.01)
        faults.tick()  # type: ignore[attr-defined]
    return requests


def settle(stage: Stage, faults: object, patience: float) -> int:
    """Wait until every transaction has ended; return how many have not."""
    from signer import Transaction
    from tests.chaos_signer.verdict import indexed

    def left() -> int:
        return Transaction.objects.filter(settled_at__isnull=True).count() or int(not indexed(stage))

    deadline = time.monotonic() + patience
    while patiently(left) and time.monotonic() < deadline:
        faults.tick()  # type: ignore[attr-defined]
        time.sleep(0.2)
    return left()


if __name__ == "__main__":
    sys.exit(main())
