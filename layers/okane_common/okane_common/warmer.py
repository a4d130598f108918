"""Fills the cache ahead of its readers, from the database, version by version like every other write."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from okane_common import cache, database, ledger, pages
from okane_common.caller import ACCESS_SECONDS

BATCH = 50  # people per database call and per Redis request
ACTIVE_SECONDS = 24 * 3600  # who has not been here for longer is not kept warm
MARK = "cache_warmer"
BATCH_SECONDS = 3.0  # what one more batch may take; with less left, the next run goes on


def warm_person(person_id: str) -> dict[str, int]:
    """Warm one person. -> {"people": 0 or 1}; 0 also when Redis did not take it."""
    people = ledger.read_person_to_warm(uuid.UUID(person_id))
    return {"people": len(people) if cache.warm(_entries(people)) else 0}


def warm_recent(seconds_left: Callable[[], float]) -> dict[str, int]:
    """Warm people in the order they were last active, until nobody is left or the time is short.

    seconds_left: how long this run may still take. A run that stops early leaves a mark, and the next goes on from it.
    -> {"people", "sessions": ended ones that were announced again, "finished": 1 if nobody was left}
    """
    # A cache that was out of reach while a session ended must not go on saying that it lives.
    ended = database.call("read_ended_sessions", ACCESS_SECONDS)["sessions"]
    cache.end_sessions(((person, session) for person, session in ended), cache.WARMER_SECONDS)
    mark = database.call("read_mark", MARK)["value"] or _start()
    warmed = 0
    while mark and seconds_left() > BATCH_SECONDS:
        batch = database.call(
            "read_people_to_warm", mark["active_at"], mark["id"], mark["since"], BATCH, pages.DEFAULT_LIMIT
        )
        if not cache.warm(_entries(batch["people"])):
            break  # Redis is out of reach: leave the mark where it is
        warmed += len(batch["people"])
        mark = {**batch["next"], "since": mark["since"]} if batch["next"] else None
    database.call("save_mark", MARK, database.json(mark))
    return {"people": warmed, "sessions": len(ended), "finished": int(mark is None)}


def _start() -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "active_at": (now + timedelta(days=1)).isoformat(),  # before everybody, whatever the two clocks say
        "id": str(uuid.UUID(int=2**128 - 1)),
        "since": (now - timedelta(seconds=ACTIVE_SECONDS)).isoformat(),
    }


def _entries(people: list[dict[str, Any]]) -> list[cache.Entry]:
    entries = []
    for person in people:
        owner = person["person_id"]
        entries.append(cache.Entry(cache.profile_key(owner), person["version"], person["profile"]))
        for one in person["wallets"]:
            wallet, version = one["wallet"], one["wallet"]["version"]
            entries.append(cache.Entry(cache.wallet_key(owner, wallet["currency"]), version, wallet))
            entries.append(cache.Entry(cache.history_key(owner, wallet["currency"]), version, one["page"]))
    return entries
