"""A transaction that ends with a record, begun again where the database itself refuses it."""

from collections.abc import Callable

from django.db import connection, transaction

from workflows.engine.session import Session, is_database_trouble, is_disconnected


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
