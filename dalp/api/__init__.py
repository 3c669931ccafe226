"""The REST API under /api/v1. Its contract: paths, names, states and errors that clients rely on."""

from ninja import NinjaAPI

from dalp.api import (
    approvals,
    bulk,
    dead_letters,
    keys,
    lanes,
    problems,
    runs,
    transactions,
    webhooks,
    workflows,
)
from dalp.api.bodies import BoundedParser

api = NinjaAPI(
    title="DALP",
    version="1",
    description="Runs digital-asset operations that must finish, and shows what became of them.",
    parser=BoundedParser(),
    urls_namespace="api",
)
problems.connect(api)
for part in (workflows, runs, dead_letters, bulk, approvals, transactions, lanes, keys, webhooks):
    api.add_router("", part.router)
