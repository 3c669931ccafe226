"""The engine in the admin: what runs, what is stuck and why, and the decisions that people take.

Nothing is edited by hand: each act goes through the engine, with a reason, like everybody else's.
"""

from workflows.admin import acts, approvals, bulk, definitions, letters, limits, objects, schedules
from workflows.admin.runs import REFERENCE_FINDERS, REFERENCE_VIEWS

__all__ = [
    "REFERENCE_FINDERS",
    "REFERENCE_VIEWS",
    "acts",
    "approvals",
    "bulk",
    "definitions",
    "letters",
    "limits",
    "objects",
    "schedules",
]
