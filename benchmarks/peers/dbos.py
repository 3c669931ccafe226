"""DBOS Transact: a library, whose only server is the PostgreSQL that DALP uses, too."""

import psycopg

from benchmarks.config import RUNS
from benchmarks.contest import Sample
from benchmarks.peers import program
from benchmarks.stage import Stage
from benchmarks.workflows import STEPS


class Dbos:
    """DBOS with a database of its own on the stage's PostgreSQL."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        # SQLAlchemy knows no other name of the scheme.
        self.url = stage.postgres.create_database("dbos").replace("postgres://", "postgresql://")

    def measure(self, name: str) -> Sample:
        """Run a program in fresh processes."""
        before = self.finished()
        with self.stage.quiet():
            sample = program.measure(name, self.url, self.stage.directory / f"{name}.log")
        runs, steps = (now - then for now, then in zip(self.finished(), before, strict=True))
        if steps != runs * STEPS or runs != RUNS + program.WARM_UP:
            raise RuntimeError(f"{name}: {runs} runs and {steps} steps are in the database")
        return sample

    def finished(self) -> tuple[int, int]:
        """Return how many runs have succeeded, and how many steps of theirs are recorded."""
        with psycopg.connect(self.url) as connection:
            if connection.execute("SELECT to_regclass('dbos.workflow_status')").fetchone() == (None,):
                return 0, 0
            return connection.execute(
                "SELECT (SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'),"
                "       (SELECT count(*) FROM dbos.operation_outputs)"
            ).fetchone()
