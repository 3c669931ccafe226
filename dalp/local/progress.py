"""What a run is doing, for a person who watches: a live table in a terminal, a line per change elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dalp.local.client import FINAL_STATES, STUCK_STATES, Api
from dalp.local.processes import LocalError

COLOURS = {
    "SUCCEEDED": "green",
    "WAITING": "yellow",
    "RUNNING": "cyan",
    "FAILED": "red",
    "UNDOING": "magenta",
    "UNDONE": "magenta",
    "PENDING": "dim",
}
# More transactions of one step than this are shown as their sum.
LINES_PER_STEP = 3


@dataclass(frozen=True)
class Line:
    """One row: a step, or a further transaction of the step above."""

    step: str
    state: str
    attempts: str
    transaction: str
    gas: str
    block: str
    seconds: str


def number(value: Any) -> int | None:
    """Return a JSON-RPC quantity, hexadecimal or not, as an integer."""
    if isinstance(value, str):
        return int(value, 16) if value.startswith("0x") else int(value)
    return None if value is None else int(value)


def lines_of(
    run: dict[str, Any], names: list[str], transactions: dict[str, list[dict[str, Any]]]
) -> list[Line]:
    """Return the rows of a run: its steps so far, then those to come.

    names: the steps of its workflow in order. transactions: by operation id.
    """
    lines: list[Line] = []
    for step in run["steps"]:
        sent = transactions.get(step["operation_id"], [])
        cells = _transaction_cells(sent)
        first, *others = cells or [("", "", "")]
        attempts = str(step["attempt"]) + _signatures(sent)
        lines.append(Line(step["name"], step["state"], attempts, *first, _seconds(step)))
        lines.extend(Line("", "", "", *cell, "") for cell in others)
    begun = {step["name"] for step in run["steps"]}
    lines.extend(Line(name, "PENDING", "", "", "", "", "") for name in names if name not in begun)
    return lines


def _transaction_cells(transactions: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    receipts = [transaction["receipt"] or {} for transaction in transactions]
    gas = [number(receipt.get("gasUsed", receipt.get("gas_used"))) for receipt in receipts]
    blocks = [number(receipt.get("blockNumber", receipt.get("block_number"))) for receipt in receipts]
    if len(transactions) <= LINES_PER_STEP:
        return [
            (_short(transaction["hash"] or transaction["state"]), _gas(used), str(block or ""))
            for transaction, used, block in zip(transactions, gas, blocks, strict=True)
        ]
    mined = [block for block in blocks if block]
    span = "-".join(str(block) for block in sorted({min(mined), max(mined)})) if mined else ""
    done = f"{len(mined)} of {len(transactions)} transactions"
    return [(done, _gas(sum(used or 0 for used in gas)), span)]


def _signatures(transactions: list[dict[str, Any]]) -> str:
    """Return " (+1 signed again)" when a transaction needed more than one signed form."""
    more = sum(max(len(transaction["attempts"]) - 1, 0) for transaction in transactions)
    return f" (+{more} signed again)" if more else ""


def _short(text: str) -> str:
    return f"{text[:12]}…{text[-6:]}" if text.startswith("0x") else text


def _gas(gas: int | None) -> str:
    return f"{gas:,}".replace(",", " ") if gas else ""


def _seconds(step: dict[str, Any]) -> str:
    if not step["started_at"]:
        return ""
    started = datetime.fromisoformat(step["started_at"])
    ended = (
        datetime.fromisoformat(step["finished_at"]) if step["finished_at"] else datetime.now(started.tzinfo)
    )
    return f"{(ended - started).total_seconds():.1f}"


class Progress:
    """Follows runs through the API until they end, and shows each change once."""

    def __init__(self, console: Console, api: Api) -> None:
        self.console, self.api = console, api
        self.notes: list[str] = []
        self._names: dict[str, list[str]] = {}
        self._said: set[tuple[str, ...]] = set()

    def note(self, text: str) -> None:
        """Say something now, in a terminal beneath the table."""
        self.notes.append(text)
        if not self.console.is_terminal:
            self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    def follow(
        self,
        runs: dict[str, str],
        *,
        timeout: float = 300,
        watch: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Follow runs (title to id) until all have ended; return them.

        watch: called with each run every time it is read. Raises LocalError when one is stuck or after `timeout` seconds.
        """
        self.notes = []
        deadline = time.monotonic() + timeout
        with self._display() as show:
            while True:
                found = {title: self.api.run(run_id) for title, run_id in runs.items()}
                show(found)
                if all(run["state"] in FINAL_STATES for run in found.values()):
                    return found
                for title, run in found.items():
                    if run["state"] in STUCK_STATES or time.monotonic() > deadline:
                        message = (
                            f"{title} is {run['state']} and did not end: {run['error'] or run['waiting_for']}"
                        )
                        raise LocalError(message)
                    if watch:
                        watch(run)
                time.sleep(0.3)

    @contextmanager
    def _display(self) -> Iterator[Callable[[dict[str, dict[str, Any]]], None]]:
        if not self.console.is_terminal:
            yield self._say
            return
        with Live(console=self.console, refresh_per_second=4) as live:
            yield lambda runs: live.update(self._table(runs))

    def _lines(self, run: dict[str, Any]) -> list[Line]:
        workflow = run["workflow"]
        if workflow not in self._names:
            self._names[workflow] = self.api.step_names(workflow)
        sent = {step["operation_id"]: self.api.transactions_of(step) for step in run["steps"]}
        return lines_of(run, self._names[workflow], sent)

    def _table(self, runs: dict[str, dict[str, Any]]) -> Table:
        table = Table(
            box=None, padding=(0, 2, 0, 0), caption="\n".join(self.notes) or None, caption_justify="left"
        )
        table.add_column("step", min_width=30)
        for column in ("state", "attempts", "transaction"):
            table.add_column(column)
        for column in ("gas", "block", "seconds"):
            table.add_column(column, justify="right")
        for title, run in runs.items():
            if len(runs) > 1:
                table.add_row(f"[bold]{title}")
            for line in self._lines(run):
                colour = COLOURS.get(line.state, "")
                state = f"[{colour}]{line.state}" if colour else line.state
                table.add_row(
                    line.step, state, line.attempts, line.transaction, line.gas, line.block, line.seconds
                )
        return table

    def _say(self, runs: dict[str, dict[str, Any]]) -> None:
        for title, run in runs.items():
            step = ""
            for line in self._lines(run):
                step = line.step or step
                told = (run["id"], step, line.state, line.attempts, line.transaction, line.block)
                if line.state == "PENDING" or told in self._said:
                    continue
                self._said.add(told)
                block = f"block {line.block}, gas {line.gas}" if line.block else ""
                attempts = f"attempt {line.attempts}" if line.attempts else ""
                words = [title, step, line.state, attempts, line.transaction, block]
                self.console.print("  " + "  ".join(filter(None, words)), highlight=False, soft_wrap=True)
