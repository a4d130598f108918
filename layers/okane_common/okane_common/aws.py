"""The AWS services that the functions call, all through boto3, which the managed runtime brings.

boto3 takes 350 ms of CPU to import, so it is imported inside the calls: a request that needs none of this pays nothing.
Every client has short timeouts and no retry, so that a call cannot outlive its request.
"""

import functools
import json
from typing import Any

CONNECT_SECONDS = 1
READ_SECONDS = 3
CALL_SECONDS = CONNECT_SECONDS + READ_SECONDS


class AwsError(Exception):
    """An AWS service refused or did not answer. The message names the service and the call, never an argument."""


@functools.cache
def _client(service: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": 1, "mode": "standard"},
        ),
    )


def _call(service: str, operation: str, **arguments: Any) -> Any:
    import botocore.exceptions

    try:
        return getattr(_client(service), operation)(**arguments)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise AwsError(f"{service} {operation} failed: {type(error).__name__}") from error


def fetch(reference: str) -> str:
    """The value behind `secretsmanager:<arn>` or `ssm:<name>` (decrypted). Raises AwsError."""
    service, _, name = reference.partition(":")
    if service == "ssm":
        return str(_call("ssm", "get_parameter", Name=name, WithDecryption=True)["Parameter"]["Value"])
    return str(_call("secretsmanager", "get_secret_value", SecretId=name)["SecretString"])


def invoke_later(function: str, payload: dict[str, object]) -> None:
    """Invoke a Lambda function asynchronously; returns as soon as it is queued. Raises AwsError."""
    _call("lambda", "invoke", FunctionName=function, InvocationType="Event", Payload=json.dumps(payload))


def send_email(sender: str, to: str, subject: str, body: str) -> None:
    """Send a plain-text mail through SES v2. Raises AwsError."""
    _call(
        "sesv2",
        "send_email",
        FromEmailAddress=sender,
        Destination={"ToAddresses": [to]},
        Content={"Simple": {"Subject": {"Data": subject}, "Body": {"Text": {"Data": body}}}},
    )
