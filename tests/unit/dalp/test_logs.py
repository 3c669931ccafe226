"""Log lines carry the ids of what is worked on, and never a secret."""

import io
import json
import logging
from collections.abc import Iterator
from logging.config import DictConfigurator  # type: ignore[attr-defined]
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.contextvars import bind_contextvars, clear_contextvars

from dalp import logs

SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
RAW = "0x02f87083" + "ab" * 100
HASH = "0x" + "cd" * 32


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What goes to standard error through the very formatter that production uses."""
    configuration = logs.logging_config(console=False, level="INFO")
    formatter = DictConfigurator(configuration).configure_formatter(configuration["formatters"]["structured"])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    level, root.level = root.level, logging.INFO
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)
    clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.case("K55")
def test_no_key_material_reaches_a_log_line(written: io.StringIO) -> None:
    log = logs.get_logger("dalp.test")
    log.info("signing with %s", SECRET)
    log.info("signed", raw=RAW, nested={"list": [SECRET, {"deep": f"0x{SECRET}"}]})
    logging.getLogger("some.library").warning("key=%s raw=%s", SECRET, RAW)
    logging.getLogger("some.library").warning("with extra", extra={"private": f"0x{SECRET}"})
    try:
        raise ValueError(f"bad key {SECRET}")
    except ValueError:
        log.exception("failed")
        logging.getLogger("some.library").exception("failed too")
    text = written.getvalue()
    assert len(lines(written)) == 6
    assert SECRET not in text
    assert RAW[2:] not in text
    assert "ValueError" in text


def test_a_hash_that_is_named_as_one_stays_readable(written: io.StringIO) -> None:
    logs.get_logger("dalp.test").info("sent", transaction_hash=HASH)
    assert lines(written)[0]["transaction_hash"] == HASH


def test_lines_of_a_task_carry_its_ids(written: io.StringIO) -> None:
    task = SimpleNamespace(name="workflows.advance")
    logs.bind_task(task_id="t-1", task=task, args=["run-1"])
    logging.getLogger("some.library").info("working")
    logs.unbind_task()
    logging.getLogger("some.library").info("idle")
    working, idle = lines(written)
    assert (working["task"], working["task_id"], working["run"]) == ("workflows.advance", "t-1", "run-1")
    assert "run" not in idle


def test_a_task_does_not_inherit_the_ids_of_the_one_before(written: io.StringIO) -> None:
    bind_contextvars(lane="left over")
    logs.bind_task(task_id="t-2", task=SimpleNamespace(name="signer.sweep"), args=[])
    logging.getLogger("some.library").info("working")
    assert "lane" not in lines(written)[0]


def test_what_is_no_json_is_written_as_text(written: io.StringIO) -> None:
    logs.get_logger("dalp.test").info("odd", thing=object(), number=2**300)
    assert lines(written)[0]["number"] == 2**300
