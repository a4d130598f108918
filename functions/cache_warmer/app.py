"""Keeps the cache warm. It has no HTTP route.

{"person_id": uuid}     one person, invoked by POST /v1/cache/warm
anything else           the schedule: the recently active, newest first, in batches, within the time that is left,
                        carrying on where the last run stopped
"""

from typing import Any

from okane_common import warmer
from okane_common.observability import logger

LEAVE_SECONDS = 5  # stop this long before Lambda would stop us


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "person_id" in event:
        result = warmer.warm_person(str(event["person_id"]))
    else:
        result = warmer.warm_recent(lambda: context.get_remaining_time_in_millis() / 1000 - LEAVE_SECONDS)
    logger.info("warmed", extra=result)
    return result
