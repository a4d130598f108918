"""The EventBridge schedules of the template: when they are due, and the event that they send.

rate(5 minutes) first fires after five minutes. cron(minutes hours day-of-month month day-of-week year) knows *, ?,
lists, ranges, steps and names; L, W and # are refused.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from local.intrinsics import ACCOUNT, REGION
from local.template import Schedule, TemplateError

_RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_CRON = re.compile(r"cron\((\S+) (\S+) (\S+) (\S+) (\S+) (\S+)\)")
_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")  # 1 is Sunday


@dataclass(frozen=True, slots=True)
class Cron:
    """The six fields of a cron expression as the sets of what they allow."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    years: frozenset[int]

    def due(self, moment: datetime) -> bool:
        """Whether it fires in the minute of this moment."""
        return (
            moment.minute in self.minutes
            and moment.hour in self.hours
            and moment.day in self.days
            and moment.month in self.months
            and moment.isoweekday() % 7 + 1 in self.weekdays
            and moment.year in self.years
        )


def parse(expression: str) -> float | Cron:
    """Seconds between two firings, or the cron fields. TemplateError if it is neither."""
    rate = _RATE.fullmatch(expression)
    if rate is not None and int(rate[1]) > 0:
        return float(int(rate[1]) * _SECONDS[rate[2]])
    cron = _CRON.fullmatch(expression)
    if cron is None:
        raise TemplateError(f"only rate(...) and cron(...) schedules run here: {expression}")
    try:
        return Cron(
            _field(cron[1], 0, 59),
            _field(cron[2], 0, 23),
            _field(cron[3], 1, 31),
            _field(cron[4], 1, 12, _MONTHS),
            _field(cron[5], 1, 7, _DAYS),
            _field(cron[6], 1970, 2199),
        )
    except ValueError as error:
        raise TemplateError(f"this schedule does not run here: {expression} ({error})") from error


def _field(text: str, low: int, high: int, names: Sequence[str] = ()) -> frozenset[int]:
    allowed: set[int] = set()

    def number(word: str) -> int:
        value = names.index(word.upper()) + 1 if word.upper() in names else int(word)
        if not low <= value <= high:
            raise ValueError(f"{word} is not within {low} and {high}")
        return value

    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in {"*", "?"}:
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = number(start)
            last = number(end) if dash else (high if step else first)
        allowed.update(range(first, last + 1, int(step or 1)))
    return frozenset(allowed)


def event(schedule: Schedule, moment: datetime) -> bytes:
    """What the function is sent: the template's Input, or the event of EventBridge (or of its Scheduler)."""
    if schedule.input is not None:
        return schedule.input.encode()
    scheduler = schedule.source == "aws.scheduler"
    resource = (
        f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{schedule.name}"
        if scheduler
        else f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{schedule.name}"
    )
    made = {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": schedule.source,
        "account": ACCOUNT,
        "time": moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [resource],
        "detail": "{}" if scheduler else {},  # the Scheduler sends it as text
    }
    return json.dumps(made).encode()


class Clock:
    """Fires the schedules; fire is called with the schedule and its event."""

    def __init__(self, schedules: Sequence[Schedule], fire: Callable[[Schedule, bytes], None]) -> None:
        self._fire = fire
        self._schedules: Mapping[str, Schedule] = {schedule.name: schedule for schedule in schedules}
        self._when = {name: (parse(given.expression), _zone(given)) for name, given in self._schedules.items()}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to wait for the first firings."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(name)) for name in self._schedules]

    def fire(self, name: str) -> None:
        """Fire one by hand. KeyError if there is no such schedule."""
        schedule = self._schedules[name]
        self._fire(schedule, event(schedule, datetime.now(UTC)))

    async def _keep(self, name: str) -> None:
        when, zone = self._when[name]
        while True:
            if isinstance(when, float):
                await asyncio.sleep(when)
                self.fire(name)
                continue
            now = datetime.now(zone)
            following = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
            await asyncio.sleep((following - now).total_seconds())
            if when.due(following):
                self.fire(name)

    async def stop(self) -> None:
        """No more firings."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _zone(schedule: Schedule) -> tzinfo:
    if schedule.timezone == "UTC":
        return UTC
    try:
        return ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise TemplateError(f"{schedule.name}: no such time zone: {schedule.timezone}") from error
