"""The environment, read in one place and checked at start.

Every module asks here, while it is imported, for what it needs: a function whose configuration is incomplete fails
before its first request, with the name of what is missing. A value may be a reference, `secretsmanager:<arn>`, `ssm:<name>` or
`file:<path>`; it is then fetched, so that no secret stands in a function's configuration.
"""

import json
import os
from pathlib import Path

from okane_common import aws

REFERENCES = ("secretsmanager:", "ssm:", "file:")


class SettingError(Exception):
    """A setting is missing or malformed. The message names it and never shows its value."""


class Secret:
    """A value that shows itself only when asked to: `repr`, `str` and a log line get stars."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Call it where it is used, and keep the result nowhere."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


def text(name: str, default: str | None = None) -> str:
    """The setting `name`. Raises SettingError when it is neither set nor has a default, or what it refers to is not had."""
    value = os.environ.get(name) or default
    if value is None:
        raise SettingError(f"{name} is not set")
    if not value.startswith(REFERENCES):
        return value
    try:
        return Path(value.removeprefix("file:")).read_text() if value.startswith("file:") else aws.fetch(value)
    except (aws.AwsError, OSError) as error:
        raise SettingError(f"{name} cannot be fetched: {error}") from error


def secret(name: str) -> Secret:
    """The setting `name`, masked. Raises SettingError when it is not set."""
    return Secret(text(name))


def json_object(name: str) -> dict[str, object]:
    """The setting `name`, a JSON object. Raises SettingError when it is not set or is something else."""
    try:
        value = json.loads(text(name))
    except ValueError:
        raise SettingError(f"{name} is not JSON") from None  # the cause would show the value
    if not isinstance(value, dict):
        raise SettingError(f"{name} is not a JSON object")
    return value


def words(name: str) -> tuple[str, ...]:
    """The setting `name`, a comma-separated list. Raises SettingError when it is not set or empty."""
    found = tuple(word.strip() for word in text(name).split(",") if word.strip())
    if not found:
        raise SettingError(f"{name} is empty")
    return found
