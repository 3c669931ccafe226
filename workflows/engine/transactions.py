"""A transaction that ends with a record, begun again where the database itself refuses it."""

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import OperationalError, connection, transaction

from workflows.engine.session import REFUSALS_MAX, Session, is_database_trouble, is_disconnected

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_transaction(session: Session, work: Callable[[], None]) -> None:
    """Do the work, which commits the session, in one transaction.

    What the database itself refuses (a deadlock, a lost connection) is begun again from scratch, as long as the lease
    stands: nothing of it happened, unless it turns out that only the answer to the commit was lost. Within another one
    it is a part of that, and costs no savepoint: whatever goes wrong, all of it is begun again.
    """
    if session.in_transaction:
        work()
        return
    before, refusals, tried = session.snapshot(), 0, False
    while True:
        try:
            if tried:
                if session.was_committed_since(before):
                    return
                session.restore(before)
            session.in_transaction = True
            with transaction.atomic():
                work()
            return
        except Exception as error:
            if connection.in_atomic_block or not is_database_trouble(error):
                session.restore(before)
                raise
            tried = True
            refusals += not is_disconnected()
            session.wait_for_database(error, refusals)
        finally:
            session.in_transaction = False


def in_one_transaction(act: Callable[Given, Result]) -> Callable[Given, Result]:
    """Have an act on runs be one transaction, begun again where the database has it give way to another (a deadlock).

    Within a transaction of the caller it is a part of that, and the caller's to begin again. A connection that was lost
    leaves open whether the act was committed: then the caller is told.
    """

    @wraps(act)
    def whole(*args: Given.args, **options: Given.kwargs) -> Result:
        refusals = 0
        while True:
            try:
                with transaction.atomic():
                    return act(*args, **options)
            except OperationalError:
                refusals += 1
                if connection.in_atomic_block or is_disconnected() or refusals >= REFUSALS_MAX:
                    raise
                time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - not a secret

    return whole
