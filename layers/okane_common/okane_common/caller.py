"""Who is asking, and for how long one proof of that lasts."""

import uuid
from typing import NamedTuple

ACCESS_SECONDS = 600  # the life of an access token, and so of whatever stands in for looking at its session


class Caller(NamedTuple):
    """A person and a session: proved by a signature, not yet by a live session."""

    person_id: uuid.UUID
    session_id: uuid.UUID
