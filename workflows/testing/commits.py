"""What happens on commit, inside the transaction that a test framework wraps around each test.

There nothing is ever committed, so Django never calls what `transaction.on_commit` was given. Here it is called when the
code's own outermost block ends, where it would be after a real commit. In a test that really commits nothing is changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import structlog
from django.db import connection, transaction

log = structlog.get_logger()


class Commits:
    """The callbacks of one test, and the savepoint that stands for its transactions' outermost level."""

    def __init__(self) -> None:
        self._level = len(connection.savepoint_ids)
        self._save = connection.savepoint_commit
        self._register = connection.on_commit

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Call the callbacks of the block in time; leave those that the test itself registered before."""
        if not connection.in_atomic_block:
            yield
            return
        before, connection.run_on_commit = connection.run_on_commit, []
        with (
            mock.patch.object(connection, "savepoint_commit", self._commit),
            mock.patch.object(connection, "on_commit", self._on_commit),
        ):
            try:
                yield
            finally:
                connection.run_on_commit = before + connection.run_on_commit

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Take back what the block writes, if the test is inside a transaction at all."""
        if not connection.in_atomic_block:
            yield
            return
        block = transaction.atomic()
        block._from_testcase = True  # type: ignore[attr-defined]  # as Django's own: `atomic(durable=True)` is outermost within it
        with block:
            self._level += 1
            try:
                yield
            finally:
                self._level -= 1
                transaction.set_rollback(True)

    def _commit(self, sid: str) -> None:
        self._save(sid)
        self._call()

    def _on_commit(self, function: Callable[[], Any], robust: bool = False) -> None:
        self._register(function, robust)
        self._call()

    def _call(self) -> None:
        if len(connection.savepoint_ids) > self._level:
            return
        pending, connection.run_on_commit = connection.run_on_commit, []
        for _, function, robust in pending:  # type: ignore[misc]  # the stubs know an older Django's pairs
            try:
                function()
            except Exception:
                if not robust:
                    raise
                log.exception("on_commit_failed")
