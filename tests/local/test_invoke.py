"""The Lambda Invoke API as boto3 sees it, asynchronous invocations, and the schedule."""

import json
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import httpx
import pytest

from local import invoke
from tests.local.fixtures.running import Running, until

# The Invoke API.


def lambda_client(running: Running) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=running.gateway.invoke_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=botocore.config.Config(retries={"max_attempts": 0}),
    )


def test_boto3_invokes_a_function_and_gets_its_result(running: Running) -> None:
    for name in (
        *["WorkerFunction", "WorkerFunction:$LATEST", "000000000000:function:WorkerFunction"],
        "arn:aws:lambda:us-east-1:000000000000:function:WorkerFunction",
    ):
        answer = lambda_client(running).invoke(FunctionName=name, Payload=json.dumps({"text": "by boto3"}))
        assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
        assert "FunctionError" not in answer
        assert json.loads(answer["Payload"].read())["did"] is None
    assert running.notes() == ["by boto3"] * 4


def test_boto3_gets_a_functions_error(running: Running) -> None:
    answer = lambda_client(running).invoke(FunctionName="WorkerFunction", Payload=b'{"do": "raise"}')
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    error = json.loads(answer["Payload"].read())
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "as told")
    assert "raise ValueError" in "".join(error["stackTrace"])


def test_a_dry_run_runs_nothing(running: Running) -> None:
    answer = lambda_client(running).invoke(FunctionName="WorkerFunction", InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    assert running.notes() == []


def test_an_event_runs_later_and_again_if_it_fails(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoke, "RETRY_SECONDS", (0.05, 0.05))
    client = lambda_client(running)
    answer = client.invoke(FunctionName="WorkerFunction", InvocationType="Event", Payload=b'{"text": "later"}')
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    client.invoke(FunctionName="WorkerFunction", InvocationType="Event", Payload=b'{"do": "raise", "text": "again"}')
    running.loop.run(running.gateway.settled())
    assert sorted(running.notes()) == ["again", "again", "later"]  # MaximumRetryAttempts: 1
    assert any("gave up on the asynchronous invocation" in line for line in running.lines)


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"FunctionName": "NoSuchFunction"}, 404, "ResourceNotFoundException"),
        ({"FunctionName": "WorkerFunction", "Payload": b"{"}, 400, "InvalidRequestContentException"),
        ({"FunctionName": "WorkerFunction", "Payload": b"\xff"}, 400, "InvalidRequestContentException"),
        (
            {"FunctionName": "WorkerFunction", "InvocationType": "Event", "Payload": b'"%b"' % (b"x" * 1048576)},
            *(413, "RequestTooLargeException"),
        ),
    ],
)
def test_the_invoke_api_refuses_as_lambda_does(
    running: Running, arguments: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        lambda_client(running).invoke(**arguments)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert refused.value.response["Error"]["Code"] == code


def test_the_invoke_api_throttles(own: Running) -> None:
    own.start(max_workers=1, max_waiting=0)
    with pytest.raises(botocore.exceptions.ClientError, match="TooManyRequestsException"):
        lambda_client(own).invoke(FunctionName="WorkerFunction", Payload=b"{}")


def test_an_unsigned_request_invokes_nothing(running: Running) -> None:
    path = "/2015-03-31/functions/WorkerFunction/invocations"
    answer = httpx.post(running.gateway.invoke_url + path, content=b'{"text": "unsigned"}')
    assert answer.status_code == 403
    assert httpx.get(running.gateway.invoke_url + path).status_code == 404
    assert running.notes() == []


# The schedule.


def test_a_schedule_sends_its_input_or_the_schedulers_event(running: Running) -> None:
    running.loop.loop.call_soon_threadsafe(running.gateway.fire, "nightly")
    until(lambda: running.notes() == ["nightly"])
    running.loop.loop.call_soon_threadsafe(running.gateway.fire, "WorkerFunctionHourly")
    until(lambda: (running.folder / "notes").read_text())
    event = json.loads(running.notes()[0])
    assert event["source"] == "aws.scheduler"
    assert event["detail-type"] == "Scheduled Event"
    assert event["detail"] == "{}"
    assert event["resources"] == ["arn:aws:scheduler:us-east-1:000000000000:schedule/default/WorkerFunctionHourly"]


def test_schedules_fire_by_themselves(own: Running) -> None:
    own.start(schedules=False)
    clock = own.gateway._clock
    clock._when["WorkerFunctionHourly"] = (0.05, clock._when["WorkerFunctionHourly"][1])
    own.loop.loop.call_soon_threadsafe(clock.start)
    until(lambda: len((own.folder / "notes").read_text().splitlines()) >= 2)
