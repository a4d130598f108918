"""Logs and metrics: structured lines without secrets, and EMF counters that CloudWatch reads from the log.

Nothing that is logged holds a token, a password, a code, a body or a full e-mail address; events carry ids.
"""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import MetricUnit, single_metric

from okane_common import settings

NAMESPACE = settings.text("POWERTOOLS_METRICS_NAMESPACE", "OKANE")
SERVICE = settings.text("POWERTOOLS_SERVICE_NAME", "okane")

logger = Logger(service=SERVICE, level=settings.text("LOG_LEVEL", "INFO"))


def count(metric: str) -> None:
    """Add one to a counter, such as `BankEventQuarantined`."""
    measure(metric, 1)


def measure(metric: str, value: int) -> None:
    """Say how many there are, such as `AuditDifferences`; 0 says that somebody has looked."""
    with single_metric(
        name=metric,
        unit=MetricUnit.Count,
        value=value,
        namespace=NAMESPACE,
        default_dimensions={"service": SERVICE},
    ):
        pass


def event(name: str, **details: Any) -> None:
    """Write one line of the event log: who signed in, what was refused or changed. Its `correlation_id` is the request's id,
    by which the access log tells the address it came from. details: ids and reasons; never a secret, never a whole e-mail.
    """
    logger.info("event", stacklevel=3, extra={"event": name, **{key: str(value) for key, value in details.items()}})


def hint(email: str) -> str:
    """An e-mail address as the event log may show it: `a***@example.com`."""
    local, _, domain = email.partition("@")
    return f"{local[:1]}***@{domain}"
