"""When schedules are due."""

from datetime import UTC, datetime

import pytest

from local.schedule import Clock, Cron, event, parse
from local.template import Schedule, TemplateError


@pytest.mark.parametrize(
    ("expression", "seconds"), [("rate(1 minute)", 60), ("rate(5 minutes)", 300), ("rate(2 days)", 172800)]
)
def test_rates_are_seconds(expression: str, seconds: float) -> None:
    assert parse(expression) == seconds


@pytest.mark.parametrize(
    ("expression", "due", "not_due"),
    [
        ("cron(30 3 * * ? *)", "2026-11-23T03:30", "2026-11-23T03:31"),
        ("cron(0/15 * * * ? *)", "2026-11-23T03:45", "2026-11-23T03:40"),
        ("cron(0 8-17/3 ? * MON-FRI *)", "2026-11-23T14:00", "2026-11-22T14:00"),  # a Monday, a Sunday
        ("cron(0 0 ? * 1,7 *)", "2026-11-22T00:00", "2026-11-23T00:00"),  # 1 is Sunday
        ("cron(0 12 1,15 jan,NOV ? 2026-2027)", "2026-11-15T12:00", "2028-11-15T12:00"),
    ],
)
def test_cron_fields_say_when(expression: str, due: str, not_due: str) -> None:
    when = parse(expression)
    assert isinstance(when, Cron)
    assert when.due(datetime.fromisoformat(due).replace(tzinfo=UTC))
    assert not when.due(datetime.fromisoformat(not_due).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    "expression",
    [
        *["rate(0 minutes)", "rate(5)", "at(2026-11-23T10:00:00)", "5 minutes", "cron(* * * * *)"],
        *["cron(0 0 L * ? *)", "cron(0 0 ? * 6#3 *)", "cron(0 0 15W * ? *)", "cron(60 0 * * ? *)"],
        "cron(*/0 * * * ? *)",
    ],
)
def test_other_expressions_are_refused(expression: str) -> None:
    with pytest.raises(TemplateError, match="run here"):
        parse(expression)


def test_a_clock_refuses_an_unknown_time_zone() -> None:
    schedule = Schedule("s", "F", "rate(1 hour)", "Mars/Olympus", None, "aws.events")
    with pytest.raises(TemplateError, match="s: no such time zone: Mars/Olympus"):
        Clock([schedule], lambda *_: None)


def test_a_rules_event_has_an_empty_detail_and_names_the_rule() -> None:
    schedule = Schedule("daily", "F", "rate(1 day)", "UTC", None, "aws.events")
    sent = event(schedule, datetime(2026, 11, 23, 10, 0, 5, tzinfo=UTC)).decode()
    for part in (
        '"source": "aws.events"',
        '"detail-type": "Scheduled Event"',
        '"time": "2026-11-23T10:00:05Z"',
        '"resources": ["arn:aws:events:us-east-1:000000000000:rule/daily"]',
        '"detail": {}',
    ):
        assert part in sent
