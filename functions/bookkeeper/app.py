"""Keeps the books in order. It has no HTTP route; template.yaml schedules its tasks.

{"task": "sweep"}           every minute: holds that have run out, arrivals, unanswered withdrawals; then goes on with a full
                            audit, if one is under way
{"task": "audit_recent"}    every five minutes: what is new
{"task": "audit_full"}      once a day: everything; what does not fit into this run is left to the sweeps that follow
"""

from typing import Any

from okane_common import bookkeeper
from okane_common.observability import logger

LEAVE_SECONDS = 15  # stop this long before Lambda would stop us, so that the next minute's task finds its turn


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    def seconds_left() -> float:
        return float(context.get_remaining_time_in_millis() / 1000 - LEAVE_SECONDS)

    task = event["task"]
    match task:
        case "sweep":
            result = bookkeeper.sweep(seconds_left)
            result |= bookkeeper.audit_full(seconds_left, only_go_on=True)
        case "audit_recent":
            result = bookkeeper.audit_recent(seconds_left)
        case "audit_full":
            result = bookkeeper.audit_full(seconds_left)
        case _:
            raise ValueError(f"there is no task {task}")
    logger.info("kept", extra={"task": task, **result})
    return result
