"""How many requests one person may send in a minute, on the ordinary routes. (Signing in has budgets of its own, in Postgres.)

Counted here by every environment for itself, so that no store has to answer, and on cached reads in Redis too, over all
environments, within the command that the read sends anyway (see cache.look). Redis never refuses what moves money.
"""

import time
import uuid
from collections import Counter

from okane_common import settings
from okane_common.errors import Refusal

MINUTE_SECONDS = 60
PER_MINUTE = int(settings.text("REQUESTS_PER_MINUTE", "6000"))
NETWORK_PER_MINUTE = 300  # of those that cost us a request to somebody else


class _Window:
    """What this environment has seen of each person in the present minute."""

    def __init__(self) -> None:
        self._minute = 0
        self._seen: Counter[uuid.UUID | str] = Counter()

    def count(self, who: uuid.UUID | str) -> int:
        """One more of a person's or a network's; returns how many there are now."""
        minute = this_minute()
        if minute != self._minute:
            self._minute, self._seen = minute, Counter()
        self._seen[who] += 1
        return self._seen[who]


_window = _Window()


def this_minute() -> int:
    """The minute that requests are counted by."""
    return int(time.time()) // MINUTE_SECONDS


def admit(person_id: uuid.UUID) -> None:
    """Count one request of a person's. Raises Refusal(rate_limited)."""
    limit(_window.count(person_id))


def admit_network(source: str) -> None:
    """Count one request from a network by somebody who is not known yet. Raises Refusal(rate_limited)."""
    limit(_window.count(source), NETWORK_PER_MINUTE)


def limit(count: int, most: int = PER_MINUTE) -> None:
    """Raises Refusal(rate_limited) if this is more than a minute may have."""
    if count > most:
        left = MINUTE_SECONDS - int(time.time()) % MINUTE_SECONDS
        raise Refusal("rate_limited", "Wait before the next request.", retry_after=left)
