"""`make demo`: issue a real permissioned token on a local chain, and kill the worker in the middle of it.

Ends with what the chain itself shows. --once: exit 0 only if that is exactly what was asked.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from dalp.local.chain_report import ChainReport, read_chain
from dalp.local.client import Api, ApiError
from dalp.local.processes import ROOT, LocalError
from dalp.local.progress import Progress
from dalp.local.stage import CHAIN_ID, Stage

KEYS = {"deployer": True, "claim-issuer": True, "claim-signer": False}  # alias: pays for transactions
NAME, SYMBOL, DECIMALS = "Harbour Bond 2031", "HARB31", 2
FRANCE, GERMANY = 250, 276
AMOUNTS, COUNTRIES = (125_000_00, 50_000_00, 7_500_25), (FRANCE, GERMANY, FRANCE)


class Demo:
    """One showing, from an empty directory to an asset on the chain."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self.console, self.stage = console, stage
        self.began = time.monotonic()
        self.senders: list[str] = []
        self.killed = 0

    def say(self, text: str) -> None:
        self.console.print(
            f"[bold]{time.monotonic() - self.began:5.1f} s[/]  {text}", highlight=False, soft_wrap=True
        )

    def run(self) -> bool:
        """Play it; return whether the chain shows exactly what was asked."""
        self.prepare()
        # The investors' own wallets. The platform holds no key of theirs, and they pay for nothing.
        wallets = [checksummed(account) for account in self.stage.chain.accounts[1:4]]
        self.bootstrap()
        self.register(wallets)
        issued = self.issue(wallets)
        amounts = dict(zip(wallets, AMOUNTS, strict=True))
        report = read_chain(self.stage.chain.rpc, token_of(issued), wallets, self.senders)
        faults = report.faults(name=NAME, symbol=SYMBOL, decimals=DECIMALS, amounts=amounts)
        if not self.killed:
            faults.append("the worker was not killed: the issuance was over before")
        self.show(report, faults)
        return not faults

    def prepare(self) -> None:
        self.say("Starting Redis, a chain with a block each second, and an identity provider")
        self.stage.start_servers()
        self.say("Making the database, the chain's entry and the keys")
        self.stage.prepare_database()
        self.senders = [self.stage.create_key(alias, funded=funded) for alias, funded in KEYS.items()]
        self.say("Starting a Celery worker, beat and the web server")
        self.stage.start_processes()
        self.api = Api(self.stage.web_url, self.stage.token)
        self.progress = Progress(self.console, self.api)

    def finish(self, runs: dict[str, str], **options: Any) -> list[dict[str, Any]]:
        """Follow runs to their end; raises LocalError when one did not succeed."""
        ended = self.progress.follow(runs, **options)
        for title, run in ended.items():
            if run["state"] != "SUCCEEDED":
                raise LocalError(f"{title} ended {run['state']}: {run['error']}")
        return list(ended.values())

    def bootstrap(self) -> None:
        self.say("[bold]platform.bootstrap[/]: the contracts that all tokens share")
        aliases = {"deployer": "deployer", "claim_issuer": "claim-issuer", "claim_signer": "claim-signer"}
        run = self.api.start("platform.bootstrap", {"chain_id": CHAIN_ID, **aliases}, "demo-bootstrap")
        self.finish({"bootstrap": run["id"]})

    def register(self, wallets: list[str]) -> None:
        self.say(
            "[bold]investor.register[/], three at once: an identity, a signed claim, a place in the registry"
        )
        runs: dict[str, str] = {}
        for number, (wallet, country) in enumerate(zip(wallets, COUNTRIES, strict=True), 1):
            kyc = {"provider": "Demo KYC", "reference": f"case-{number}", "checked_on": "2026-01-15"}
            data = {"chain_id": CHAIN_ID, "wallet": wallet, "country": country, "kyc": kyc}
            title = f"investor {wallet[:8]}…"
            runs[title] = self.api.start("investor.register", data, f"demo-investor-{number}")["id"]
        self.finish(runs)

    def issue(self, wallets: list[str]) -> dict[str, Any]:
        self.say(f"[bold]asset.issue[/]: {NAME} ({SYMBOL}); half-way the worker will be killed")
        investors = [
            {"wallet": wallet, "amount": str(amount), "email": f"investor{number}@example.com"}
            for number, (wallet, amount) in enumerate(zip(wallets, AMOUNTS, strict=True), 1)
        ]
        data = {
            "chain_id": CHAIN_ID,
            "name": NAME,
            "symbol": SYMBOL,
            "decimals": DECIMALS,
            "investors": investors,
            "countries": [FRANCE, GERMANY],
            "max_balance": str(max(AMOUNTS)),
        }
        run = self.api.start("asset.issue", data, "demo-issuance")
        half = len(self.api.step_names("asset.issue")) // 2
        return self.finish({"asset.issue": run["id"]}, watch=lambda run: self.kill_half_way(run, half))[0]

    def kill_half_way(self, run: dict[str, Any], half: int) -> None:
        """Kill the worker, once, when the step after `half` steps has something under way."""
        current = run["steps"][-1] if len(run["steps"]) > half else None
        if self.killed or current is None or run["state"] not in ("RUNNING", "WAITING"):
            return
        self.killed = self.stage.kill_worker()
        self.progress.note(
            f"✗ Worker {self.killed} killed with SIGKILL during {current['name']}. Nobody is left to work."
        )
        worker = self.stage.start_worker()
        self.progress.note(
            f"✓ Worker {worker.pid} started. It knows nothing but the database, and goes on from there."
        )

    def show(self, report: ChainReport, faults: list[str]) -> None:
        """Print what the chain says."""
        self.say("[bold]What the chain says[/], asked by bare JSON-RPC")
        rows = [
            ("token", report.token),
            ("name", f"{report.name} ({report.symbol})"),
            ("supply", units(report.supply, report.decimals)),
            *(("holder", held(holding, report.decimals)) for holding in report.holdings),
            ("paused", "yes" if report.paused else "no"),
            *(("sender", nonces_of(sender, counted)) for sender, counted in report.nonces.items() if counted),
            ("elsewhere", f"identity provider told {times(len(self.stage.registrations()))}"),
            ("", f"{self.stage.count_mails()} e-mails sent"),
        ]
        for name, value in rows:
            self.console.print(f"         {name:10} {value}", highlight=False, soft_wrap=True)
        for fault in faults:
            self.console.print(f"         [red]WRONG[/]      {fault}", highlight=False, soft_wrap=True)
        if not faults:
            self.say("[green]Exactly what was asked, nothing lost and nothing done twice.[/]")

    def stay(self) -> None:
        """Keep everything up, and start again what ends, until Ctrl-C."""
        self.say(
            f"Console   {self.stage.web_url}/admin/   user [bold]admin[/]   password [bold]{self.stage.password}[/]"
        )
        self.say(f"API       {self.stage.web_url}/api/v1/docs   token [bold]{self.stage.token}[/]")
        self.say(f"Logs and e-mails are in {self.stage.directory}. Ctrl-C stops everything.")
        while True:
            time.sleep(1)
            for name in self.stage.restart_dead():
                self.say(f"The {name} had ended; started again.")


def checksummed(address: str) -> str:
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))


def token_of(run: dict[str, Any]) -> str:
    return str(run["output"]["token"])


def units(amount: int, decimals: int) -> str:
    """Return an amount of base units as a person writes it: 750025, 2 is 7 500.25."""
    whole, rest = divmod(amount, 10**decimals)
    fraction = f".{rest:0{decimals}}" if decimals else ""
    return f"{whole:,}".replace(",", " ") + fraction


def held(holding: Any, decimals: int) -> str:
    return f"{holding.wallet}  {units(holding.balance, decimals)}  (minted {times(holding.mints)})"


def times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def nonces_of(sender: str, counted: Any) -> str:
    most = max(counted.values())
    return f"{sender}  {sum(counted.values())} transactions, nonces 0 to {max(counted)}, each {times(most)}"


def end(number: int, _frame: FrameType | None) -> NoReturn:
    """Raise what ends `main`, and again in a moment unless it has seen it: in a callback Python drops what is raised."""
    signal.signal(signal.SIGALRM, lambda _number, frame: end(number, frame))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the issuance")
    parser.add_argument("--port", type=int, help="the web server's port, else a free one")
    parser.add_argument(
        "--directory", type=Path, default=ROOT / ".demo", help="for the database and logs; emptied"
    )
    options = parser.parse_args()
    # SIGINT too: where a script started us in the background, it would be ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    console = Console()
    stage = None
    try:
        stage = Stage(options.directory.resolve(), options.port)
        demo = Demo(console, stage)
        right = demo.run()
        if not options.once:
            demo.stay()
        return 0 if right else 1
    except KeyboardInterrupt:
        return 130 if options.once else 0
    except (LocalError, ApiError) as error:
        console.print(
            f"[red]{type(error).__name__ if isinstance(error, ApiError) else 'Stopped'}:[/] ", end=""
        )
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        console.print(f"The logs are in {options.directory}/logs.", highlight=False, soft_wrap=True)
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if stage:
            # A second Ctrl-C must not leave half of it running.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            stage.stop()


if __name__ == "__main__":
    sys.exit(main())
