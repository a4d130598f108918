"""Our runtime client against AWS's: what the platform hears from the two must be the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.http import Request, Response, serve, stop, url
from local.template import Function
from local.workers import Launch, Outcome, Pool
from tests.local.fixtures.loop import Loop, running_loop
from tests.local.fixtures.running import alive

CLIENT = Path(__file__).resolve().parents[2] / "local" / "runtime_client.py"


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


class Handler:
    """A handler from a text, run by one client."""

    def __init__(self, loop: Loop, client: str, folder: Path, source: str, name: str) -> None:
        (folder / "app.py").write_text(source, encoding="utf-8")
        self.lines: list[str] = []
        self.loop = loop
        function = Function("Test", "Test", name, folder, (), 5.0, 128, None, 0, {}, {})
        launch = Launch(sys.executable, client, {}, self.lines.append)
        self.pool = Pool(function, {}, launch, limit=1, queue=10)

    def invoke(self, event: object) -> Outcome:
        payload = json.dumps(event).encode()
        return self.loop.run(self.pool.invoke(payload, request_id="request-1", trace="Root=1-2-3"))

    def error(self, event: object = None) -> dict[str, Any]:
        outcome = self.invoke(event)
        assert outcome.failed
        report: dict[str, Any] = json.loads(outcome.payload)
        return report


@pytest.fixture
def handler(loop: Loop, runtime: str, tmp_path: Path) -> Iterator[Any]:
    """Makes a Handler."""
    made: list[Handler] = []

    def make(source: str, name: str = "app.lambda_handler") -> Handler:
        made.append(Handler(loop, runtime, tmp_path, source, name))
        return made[0]

    yield make
    for one in made:
        loop.run(one.pool.stop())


def test_results_are_json_in_utf_8(handler: Any) -> None:
    source = """
from decimal import Decimal
def lambda_handler(event, context):
    return {"event": event, "text": "₹é", "number": Decimal("1.5"), "pair": (1, 2), None: float("nan")}
"""
    outcome = handler(source).invoke({"a": ["é", "\U0001f600"]})
    assert not outcome.failed
    assert "₹é".encode() in outcome.payload
    result = json.loads(outcome.payload)
    assert result["event"] == {"a": ["é", "\U0001f600"]}
    assert (result["number"], result["pair"]) == (1.5, [1, 2])
    assert result["null"] != result["null"]  # NaN, as Lambda sends it


def test_an_exception_is_reported_with_type_message_and_trace(handler: Any) -> None:
    source = """
def lambda_handler(event, context):
    inner()
def inner():
    raise LookupError("for the report")
"""
    made = handler(source)
    report = made.error()
    assert report["errorType"] == "LookupError"
    assert report["errorMessage"] == "for the report"
    assert report["requestId"] == "request-1"
    assert [frame.partition(" in ")[2].split("\n")[0] for frame in report["stackTrace"]] == ["lambda_handler", "inner"]
    assert any("[ERROR] LookupError: for the report" in line for line in made.lines)
    assert made.error()["errorType"] == "LookupError"  # and the worker goes on


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        ("import no_such_module", "app.lambda_handler", "Runtime.ImportModuleError"),
        ("def lambda_handler(:", "app.lambda_handler", "Runtime.UserCodeSyntaxError"),
        ("", "app.lambda_handler", "Runtime.HandlerNotFound"),
        ("", "missing.lambda_handler", "Runtime.ImportModuleError"),
        ("", "lambda_handler", "Runtime.MalformedHandlerName"),
        ("{}['key']", "app.lambda_handler", "KeyError"),
        ("None.attribute", "app.lambda_handler", "AttributeError"),
    ],
)
def test_init_errors_have_lambdas_names(handler: Any, source: str, name: str, kind: str) -> None:
    made = handler(source, name)
    assert made.error()["errorType"] == kind
    assert any(line.startswith(f"Test: could not start: {kind}: ") for line in made.lines)


@pytest.mark.parametrize("statement", ["import sys; sys.exit(0)", "import os; os._exit(7)"])
def test_an_import_that_exits_is_an_init_error(handler: Any, statement: str) -> None:
    report = handler(statement).error()
    assert report["errorType"] == "Runtime.ExitError"
    assert "Runtime exited with status" in report["errorMessage"]


def test_what_is_no_json_is_a_marshal_error(handler: Any) -> None:
    assert handler("def lambda_handler(e, c): return object()").error()["errorType"] == "Runtime.MarshalError"


def test_a_handler_that_exits_fails_its_caller(handler: Any) -> None:
    made = handler("import sys\ndef lambda_handler(e, c): sys.exit(4)")
    assert made.error()["errorMessage"] == "Runtime exited with status 4"


def test_log_records_are_printed_with_the_requests_id(handler: Any) -> None:
    source = """
import logging, os
def lambda_handler(event, context):
    logging.getLogger().warning("watch out %s", "here")
    return os.environ["_X_AMZN_TRACE_ID"]
"""
    made = handler(source)
    assert json.loads(made.invoke(None).payload) == "Root=1-2-3"
    deadline = time.monotonic() + 10
    while not made.lines and time.monotonic() < deadline:
        time.sleep(0.01)
    (line,) = made.lines
    assert line.startswith("Test: [WARNING]\t")
    assert line.endswith("Z\trequest-1\twatch out here")


def test_remaining_time_runs_down_to_the_timeout(handler: Any) -> None:
    source = """
import time
def lambda_handler(event, context):
    first = context.get_remaining_time_in_millis()
    time.sleep(0.05)
    return [first, context.get_remaining_time_in_millis()]
"""
    first, second = json.loads(handler(source).invoke(None).payload)
    assert 0 < second < first <= 5000


def test_state_of_the_module_survives_between_invocations(handler: Any) -> None:
    made = handler("calls = []\ndef lambda_handler(e, c):\n    calls.append(e)\n    return len(calls)")
    assert [json.loads(made.invoke(None).payload) for _ in range(3)] == [1, 2, 3]


def test_our_client_ends_with_its_parent_although_the_handler_is_busy(loop: Loop, tmp_path: Path) -> None:
    """What Linux does for awslambdaric, ours does by itself."""

    async def api(request: Request) -> Response:
        headers = [("Lambda-Runtime-Aws-Request-Id", "1"), ("Lambda-Runtime-Deadline-Ms", "0")]
        return Response(200, b"{}", headers)

    source = "import time, pathlib\ndef lambda_handler(e, c):\n    pathlib.Path('busy').touch()\n    time.sleep(60)"
    (tmp_path / "app.py").write_text(source, encoding="utf-8")
    server = loop.run(serve(api, "127.0.0.1", 0, max_body=1000))
    environment = {**os.environ, "AWS_LAMBDA_RUNTIME_API": url(server).removeprefix("http://")}
    starter = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-P', {str(CLIENT)!r}, 'app.lambda_handler'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 20
        while not (tmp_path / "busy").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        parent.kill()
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(child)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        if alive(child):
            os.kill(child, signal.SIGKILL)
        loop.run(stop(server))
