"""Long work outside of any page: `queue` keeps it, `worker` does it, `plan` says what is there already.

A job survives a reload, a closed tab and the end of the dashboard. Whatever was finished is in the store, so
asking for the same again goes on where it stopped.
"""

from qmoe_core.runtime.jobs.plan import Plan, PlanRow, plan
from qmoe_core.runtime.jobs.queue import (
    ALIVE,
    CANCEL,
    EVENTS,
    LOG,
    RECORD,
    TURN,
    Job,
    State,
    Story,
    cancel,
    events,
    get,
    list_jobs,
    story,
    submit,
)
from qmoe_core.runtime.requests import Bench, Claims, HoldOut, Request, Train

__all__ = [
    "ALIVE",
    "CANCEL",
    "EVENTS",
    "LOG",
    "RECORD",
    "TURN",
    "Bench",
    "Claims",
    "HoldOut",
    "Job",
    "Plan",
    "PlanRow",
    "Request",
    "State",
    "Story",
    "Train",
    "cancel",
    "events",
    "get",
    "list_jobs",
    "plan",
    "story",
    "submit",
]
