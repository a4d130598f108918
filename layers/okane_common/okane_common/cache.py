"""The cache: balances, first history pages and profiles in Upstash Redis, read first and never believed beyond their seal.

What makes a cached value safe to show:

* it carries its version, and one script compares and sets: an older value can never replace a newer one;
* it is sealed over its key, version, end and content: what somebody else wrote there, or kept for later, is a miss;
* it is shown only beside a sealed sign that the session lives, and ending a session outranks that sign;
* a reader who has seen version N asks for `min_version=N`.

Redis decides nothing about money, so every failure here is a miss. A request spends at most BUDGET_SECONDS on it; after a
failure reads leave the cache alone for BREAK_SECONDS, and writes, which would leave something old behind, ask briefly. One
request reads with one command and writes with one command.
"""

import base64
import json
import random
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from okane_common import settings, traffic
from okane_common.caller import ACCESS_SECONDS, Caller
from okane_common.errors import refuse
from okane_common.observability import logger
from okane_common.seals import Seal
from okane_common.upstash import Failed, Upstash

BUDGET_SECONDS = 0.150  # for everything a request asks of Redis
WARMER_SECONDS = 2.0  # the warmer has nobody waiting
BREAK_SECONDS = 2.0
INSIST_SECONDS = 0.050  # what a write may still ask for while reads leave the cache alone
VALUE_SECONDS = 120  # how long a value is kept, give or take a fifth so that they do not end together
PAGE_LIMIT = 25  # the first history page that is kept

LIVE, ENDED = 1, 2  # versions of a session's sign: an end is never undone

_SEAL = Seal("cache")
_MARK_BYTES = 16

# The values of all keys but the last, and how many reads the last has counted: 0 where nothing can be written.
_LOOK = """
local count = redis.pcall('INCR', KEYS[#KEYS])
if count == 1 then
  redis.pcall('PEXPIRE', KEYS[#KEYS], ARGV[1])
end
return {redis.call('MGET', unpack(KEYS, 1, #KEYS - 1)), type(count) == 'number' and count or 0}
"""

# For each key: set it unless what is there is newer. What the caller found there and could not believe (ARGV 4 is its
# beginning, version and seal) is replaced whatever it claims, and so is what is no string of ours.
_COMPARE_AND_SET = """
for i, key in ipairs(KEYS) do
  local version, value, ms, unbelieved = unpack(ARGV, i * 4 - 3, i * 4)
  local found = redis.pcall('GET', key)
  if type(found) == 'table' then
    found = false
  end
  local current = found and tonumber(string.match(found, '^(%d+)[.]'))
  if not current or current <= tonumber(version) or string.match(found, '^%d+[.][A-Za-z0-9+/=]*') == unbelieved then
    local done = redis.pcall('SET', key, value, 'PX', ms)
    if type(done) == 'table' and done.err then
      redis.call('DEL', key)
    end
  end
end
return #KEYS
"""


class Entry(NamedTuple):
    """One value to keep: `content` None says only that everything below `version` is out of date."""

    key: str
    version: int
    content: Mapping[str, Any] | None
    seconds: float = VALUE_SECONDS


class Found(NamedTuple):
    """What a look into the cache gave. `content` and `version` are there on a hit only."""

    status: Literal["hit", "miss", "bypass"]
    content: dict[str, Any]
    version: int
    # What a miss hands on to `fill`: what the unbelievable values claim, by key, and the seconds that are left.
    unbelieved: dict[str, str]
    left: float


BYPASS = Found("bypass", {}, 0, {}, 0.0)


def wallet_key(person_id: object, currency: str) -> str:
    """Where a person's balance in one currency is kept."""
    return f"wallet:{person_id}:{currency}"


def history_key(person_id: object, currency: str) -> str:
    """Where the first page of a wallet's history is kept."""
    return f"history:{person_id}:{currency}"


def profile_key(person_id: object) -> str:
    """Where a person's own profile is kept."""
    return f"profile:{person_id}"


def _session_key(session_id: object) -> str:
    return f"session:{session_id}"


class _Cache:
    """Redis and its breaker, for the life of an environment."""

    def __init__(self) -> None:
        self._redis = Upstash(settings.text("UPSTASH_REDIS_REST_URL"), settings.secret("UPSTASH_REDIS_REST_TOKEN"))
        self._closed_until = 0.0

    def execute(self, command: list[Any], seconds: float, *, insist: bool = False) -> Any:
        """The answer to one command within `seconds`, or None. One that is carried out too late does no harm: every
        write compares versions. insist: ask also where Redis was out of reach a moment ago.
        """
        if time.monotonic() < self._closed_until:
            if not insist:
                return None
            seconds = min(seconds, INSIST_SECONDS)
        try:
            return self._redis.execute(command, seconds)
        except Failed as failure:
            self._closed_until = time.monotonic() + BREAK_SECONDS
            logger.warning("cache unavailable", extra={"reason": str(failure)})
            return None


_cache = _Cache()


def look(caller: Caller, key: str, min_version: int = 0) -> Found:
    """One read: is the session alive, and what is kept under `key`? One Redis request, which counts the person's reads too.

    A hit needs both, sealed, and the value at `min_version` or newer. Raises Refusal: session_ended when the session is known to
    have ended, rate_limited when there were too many reads in this minute.
    """
    keys = [_session_key(caller.session_id), key]
    counter = f"reads:{caller.person_id}:{traffic.this_minute()}"
    started = time.monotonic()
    command = ["EVAL", _LOOK, len(keys) + 1, *keys, counter, traffic.MINUTE_SECONDS * 1000]
    match _cache.execute(command, BUDGET_SECONDS):
        case [[_, _] as answer, int(count)]:
            traffic.limit(count)
        case _:
            return Found("bypass", {}, 0, {}, BUDGET_SECONDS - (time.monotonic() - started))
    left = BUDGET_SECONDS - (time.monotonic() - started)
    raw = {name: value for name, value in zip(keys, answer, strict=True) if isinstance(value, str)}
    opened = {name: opened for name, value in raw.items() if (opened := _open(name, value))}
    sign, owner = opened.get(keys[0], (0, None))
    if owner != {"person_id": str(caller.person_id)}:
        sign = 0
    if sign == ENDED:
        raise refuse("session_ended")
    version, content = opened.get(key, (0, None))
    if sign == LIVE and content is not None and version >= min_version:
        return Found("hit", content, version, {}, left)
    return Found("miss", {}, 0, {name: _claim(value) for name, value in raw.items() if name not in opened}, left)


def fill(found: Found, caller: Caller, entry: Entry) -> None:
    """After a miss: keep what the database said, and that the session was alive. One Redis request."""
    if found.status == "miss" and found.left > 0:
        _store([_alive(caller), entry], found.left, found.unbelieved)


def publish(changed: Iterable[Mapping[str, Any]]) -> None:
    """After a commit: keep the new balances and put the histories out of date. One Redis request, none for no change.

    changed: `[{"person_id", "wallet": {"currency", "version", ...}, "keep"}]` as the database functions return it. A wallet that
    is not to be kept only puts what is there out of date.
    """
    entries = []
    for one in changed:
        wallet = one["wallet"]
        owner, currency, version = one["person_id"], wallet["currency"], wallet["version"]
        if not one["keep"]:
            version += 1
        entries.append(Entry(wallet_key(owner, currency), version, wallet if one["keep"] else None))
        entries.append(Entry(history_key(owner, currency), version, None))
    _store(entries, BUDGET_SECONDS, {}, insist=True)


def publish_profile(person_id: uuid.UUID, version: int, profile: Mapping[str, Any]) -> None:
    """After a change of the profile. One Redis request."""
    _store([Entry(profile_key(person_id), version, profile)], BUDGET_SECONDS, {}, insist=True)


def start_session(caller: Caller) -> None:
    """Let warm reads work from the first request of a new session on."""
    _store([_alive(caller)], BUDGET_SECONDS, {})


def end_sessions(ended: Iterable[tuple[object, object]], seconds: float = BUDGET_SECONDS) -> None:
    """Refuse the sessions, `(person_id, session_id)`, on warm reads too, for as long as their access tokens can live."""
    entries = [
        Entry(_session_key(session), ENDED, {"person_id": str(person)}, ACCESS_SECONDS) for person, session in ended
    ]
    _store(entries, seconds, {}, insist=True)


def warm(entries: Iterable[Entry]) -> bool:
    """Keep many values at once, for the warmer. Returns whether Redis took them."""
    return _store(list(entries), WARMER_SECONDS, {})


def _alive(caller: Caller) -> Entry:
    return Entry(_session_key(caller.session_id), LIVE, {"person_id": str(caller.person_id)}, ACCESS_SECONDS)


def _store(entries: list[Entry], seconds: float, unbelieved: Mapping[str, str], *, insist: bool = False) -> bool:
    if not entries:
        return True
    arguments: list[str] = []
    for entry in entries:
        lifetime = entry.seconds * random.uniform(0.8, 1.2) if entry.seconds == VALUE_SECONDS else entry.seconds  # noqa: S311 - jitter is no secret
        arguments += [
            str(entry.version),
            _close(entry, time.time() + lifetime),
            str(int(lifetime * 1000)),
            unbelieved.get(entry.key, ""),
        ]
    keys = [entry.key for entry in entries]
    command = ["EVAL", _COMPARE_AND_SET, len(keys), *keys, *arguments]
    return _cache.execute(command, seconds, insist=insist) is not None


def _close(entry: Entry, ends_at: float) -> str:
    """`<version>.<seal>.<end, Unix seconds>.<JSON>`: the script reads the version, readers check the seal."""
    content = json.dumps(entry.content, separators=(",", ":"), ensure_ascii=False)
    end = str(int(ends_at))
    mark = _SEAL.mark(entry.key, str(entry.version), end, content)[:_MARK_BYTES]
    return f"{entry.version}.{base64.b64encode(mark).decode()}.{end}.{content}"


def _claim(raw: str) -> str:
    """Version and seal of a value that is not ours. ASCII only: of other bytes REST and JSON keep no exact image."""
    claim = re.match("[0-9]+[.][A-Za-z0-9+/=]*", raw)
    return claim[0] if claim else ""


def _open(key: str, raw: str) -> tuple[int, dict[str, Any] | None] | None:
    """The version and content of a value that is ours for this key and has not ended, else None."""
    version, mark, end, content = (*raw.split(".", 3), "", "", "")[:4]
    try:
        ours = _SEAL.fits(base64.b64decode(mark, validate=True), key, version, end, content)
    except ValueError:
        return None
    return (int(version), json.loads(content)) if ours and time.time() <= int(end) else None
