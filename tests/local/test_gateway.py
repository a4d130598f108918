"""The API gateway with real workers: events, answers, limits, failures, reload, the Invoke API, the schedule.

Everything here runs twice, with AWS's runtime client and with ours.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import httpx
import pytest

from local import invoke
from local.gateway import Gateway
from local.template import TemplateError, load
from local.workers import default_client
from tests.local.fixtures.loop import Loop, connect, read_to_end, running_loop

SOURCES = Path(__file__).with_name("fixtures") / "platform"
ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 20


@dataclass
class Running:
    """A gateway in a thread, a copy of its sources, and what its workers said and noted."""

    loop: Loop
    folder: Path
    client: str
    lines: list[str] = field(default_factory=list)

    def start(self, **options: Any) -> None:
        """Start a gateway; options are Gateway.start's."""
        (self.folder / "notes").touch()
        given: dict[str, Any] = {
            "overrides": {
                "EchoFunction": {"SECRET": "s3cret", "GREETING": "hi"},
                "WorkerFunction": {"STAGE": str(self.folder / "notes")},
            },
            "output": self.lines.append,
            "client": self.client,
            "schedules": False,
            "reload": False,
        }
        template = load(self.folder / "template.yaml")
        self.gateway = self.loop.run(Gateway.start(template, **(given | options)))
        self.http = httpx.Client(base_url=self.gateway.url, timeout=WAIT_SECONDS)

    def change_template(self, old: str, new: str) -> None:
        """Put something else into this copy of the template."""
        template = self.folder / "template.yaml"
        text = template.read_text(encoding="utf-8")
        assert old in text
        template.write_text(text.replace(old, new), encoding="utf-8")

    def stop(self) -> None:
        """Stop it."""
        self.http.close()
        self.loop.run(self.gateway.stop())

    def echo(self, method: str = "GET", path: str = "/echo", **options: Any) -> dict[str, Any]:
        """What the echo function saw of this request."""
        answer = self.http.request(method, path, **options)
        assert answer.status_code == 200, answer.text
        seen: dict[str, Any] = answer.json()
        return seen

    def reply(self, reply: Any, **headers: str) -> httpx.Response:
        """The gateway's answer to this result of the function."""
        return self.http.post("/echo", json={"reply": reply}, headers=headers)

    def work(self, **told: Any) -> httpx.Response:
        """Tell the worker function something."""
        return self.http.post("/work", json=told)

    def notes(self) -> list[str]:
        """What the worker function wrote down since the last look."""
        path = self.folder / "notes"
        found = path.read_text(encoding="utf-8").split("\n")[:-1]
        path.write_text("", encoding="utf-8")
        return found

    def raw(self, data: bytes) -> bytes:
        """The answer to raw bytes."""
        with connect(self.gateway.url) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return read_to_end(connection)


def until(condition: Callable[[], object]) -> None:
    """Wait until it holds, within bounds."""
    for _ in range(WAIT_SECONDS * 50):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never came to be")


@pytest.fixture(scope="module", params=["awslambdaric", "runtime_client"])
def client(request: pytest.FixtureRequest) -> str:
    """A runtime client."""
    if request.param == "awslambdaric" and default_client() != "awslambdaric":
        pytest.skip("awslambdaric has no wheel here")
    return str(request.param)


def copy_sources(folder: Path) -> Path:
    return Path(shutil.copytree(SOURCES, folder / "platform", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def shared(client: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway for all tests that leave it as it was."""
    with running_loop() as loop:
        running = Running(loop, copy_sources(tmp_path_factory.mktemp("gateway")), client)
        running.start()
        yield running
        running.stop()


@pytest.fixture
def api(shared: Running) -> Running:
    """The shared gateway with nothing noted yet."""
    shared.notes()
    shared.lines.clear()
    return shared


@pytest.fixture
def own(client: str, tmp_path: Path) -> Iterator[Running]:
    """A gateway for one test, which starts it."""
    with running_loop() as loop:
        running = Running(loop, copy_sources(tmp_path), client)
        yield running
        running.stop()


# Events.


def test_an_event_has_what_api_gateway_sends_and_nothing_else(api: Running) -> None:
    headers = [("X-Twice", "first"), ("x-twice", "second"), ("Cookie", "a=1; b=2"), ("User-Agent", "tests")]
    event = api.echo(path="/items/7/parts/9?a=1&b=2&a=3&c=", headers=headers)["event"]
    context = event["requestContext"]
    assert set(event) == {
        *["version", "routeKey", "rawPath", "rawQueryString", "headers", "requestContext", "isBase64Encoded"],
        *["cookies", "queryStringParameters", "pathParameters"],
    }
    assert event["version"] == "2.0"
    assert event["routeKey"] == context["routeKey"] == "GET /items/{id}/parts/{part}"
    assert event["rawPath"] == "/items/7/parts/9"
    assert event["rawQueryString"] == "a=1&b=2&a=3&c="
    assert event["queryStringParameters"] == {"a": "1,3", "b": "2", "c": ""}
    assert event["pathParameters"] == {"id": "7", "part": "9"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["x-twice"] == "first,second"
    assert event["headers"]["content-length"] == "0"
    assert event["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert "cookie" not in event["headers"]
    assert "connection" not in event["headers"]
    assert context["http"] == {
        "method": "GET",
        "path": "/items/7/parts/9",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "tests",
    }
    assert context["stage"] == "$default"
    assert {"accountId", "apiId", "domainName", "domainPrefix", "requestId", "time", "timeEpoch"} <= set(context)


def test_absent_parts_are_left_out_of_the_event(api: Running) -> None:
    event = api.echo()["event"]
    assert not {"body", "cookies", "queryStringParameters", "pathParameters"} & set(event)
    assert event["rawQueryString"] == ""


@pytest.mark.parametrize(
    ("path", "raw", "parameters"),
    [
        ("/items/a%20b%C3%A9", "/items/a bé", {"id": "a bé"}),
        ("/items/a%2Fb", "/items/a/b", {"id": "a/b"}),
        ("/items/a+b", "/items/a+b", {"id": "a+b"}),
        ("/items/a%3Fb", "/items/a", {"id": "a?b"}),
        ("/items/%zz%", "/items/%zz%", {"id": "%zz%"}),
        ("/items/%00", "/items/\0", {"id": "\0"}),
        ("/items/%FF", "/items/\ufffd", {"id": "\ufffd"}),
        ("/items/%ED%A0%80", "/items/\ufffd\ufffd\ufffd", {"id": "\ufffd\ufffd\ufffd"}),
        ("/items/..%2F..", "/items/../..", {"id": "../.."}),
        ("/files/a/b%20c/", "/files/a/b c/", {"proxy": "a/b c/"}),
    ],
)
def test_paths_arrive_decoded(api: Running, path: str, raw: str, parameters: dict[str, str]) -> None:
    answer = api.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    event = json.loads(answer.partition(b"\r\n\r\n")[2])["event"]
    assert event["rawPath"] == event["requestContext"]["http"]["path"] == raw
    assert event["pathParameters"] == parameters


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("a=b+c&d=e%2Bf", {"a": "b c", "d": "e+f"}),
        ("redirect=https%3A%2F%2Fexample.com%2Fa", {"redirect": "https://example.com/a"}),
        ("a&=b&c=d=e", {"a": "", "": "b", "c": "d=e"}),
        ("a=%zz&b=%FF", {"a": "%zz", "b": "\ufffd"}),
        ("a=1;b=2", {"a": "1;b=2"}),
    ],
)
def test_queries_arrive_raw_and_decoded(api: Running, query: str, parameters: dict[str, str]) -> None:
    answer = api.raw(f"GET /echo?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    event = json.loads(answer.partition(b"\r\n\r\n")[2])["event"]
    assert event["rawQueryString"] == query
    assert event["queryStringParameters"] == parameters


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("application/json", True),
        ("application/json; charset=UTF-8", True),
        ("Application/XML", True),
        ("application/javascript", True),
        ("text/csv", True),
        ("text/plain; charset=iso-8859-1", False),
        ("application/x-www-form-urlencoded", False),
        ("application/problem+json", False),
        ("application/octet-stream", False),
        ("multipart/form-data; boundary=x", False),
        ("image/png", False),
        (None, False),
        ("", False),
    ],
)
def test_bodies_are_text_or_base64_by_their_type(api: Running, content_type: str | None, text: bool) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    event = api.echo("POST", content="héllo".encode(), headers=headers)["event"]
    assert event["isBase64Encoded"] is not text
    assert event["body"] == ("héllo" if text else base64.b64encode("héllo".encode()).decode())
    assert event["headers"]["content-length"] == "6"


def test_a_text_body_that_is_no_text_arrives_as_base64(api: Running) -> None:
    event = api.echo("POST", content=b"\xff\xfe{}", headers={"Content-Type": "application/json"})["event"]
    assert base64.b64decode(event["body"]) == b"\xff\xfe{}"
    assert event["isBase64Encoded"] is True


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/items/mine", "GET /items/mine"),
        ("GET", "/items/yours", "GET /items/{id}"),
        ("DELETE", "/files/x/y", "ANY /files/{proxy+}"),
    ],
)
def test_the_most_specific_route_is_taken(api: Running, method: str, path: str, route: str) -> None:
    assert api.echo(method, path)["event"]["routeKey"] == route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", "/"), ("GET", "/unknown"), ("DELETE", "/echo"), ("HEAD", "/echo"), ("OPTIONS", "/echo")],
        *[("GET", "/echo/"), ("GET", "//echo"), ("GET", "/items/"), ("GET", "/items"), ("GET", "/files/")],
        *[("GET", "/items/1/2"), ("GET", "/ECHO"), ("get", "/echo")],
    ],
)
def test_what_is_no_route_is_a_404_of_the_gateway(api: Running, method: str, path: str) -> None:
    answer = api.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert body == (b"" if method == "HEAD" else b'{"message":"Not Found"}')
    assert b"\r\nApigw-Requestid: " in head


# The worker's surroundings.


def test_a_worker_has_lambdas_environment_and_nothing_of_ours(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = api.echo()
    environment = seen["environment"]
    assert environment["SECRET"] == "s3cret"
    assert environment["GREETING"] == "hi"
    assert environment["STAGE"] == "prod"
    assert environment["MODE"] == "careful"
    assert environment["OTHER_FUNCTION"] == "WorkerFunction"
    assert environment["AWS_ENDPOINT_URL_LAMBDA"] == api.gateway.invoke_url
    assert environment["LAMBDA_TASK_ROOT"] == str(api.folder / "functions" / "echo")
    assert environment["_HANDLER"] == "app.lambda_handler"
    assert not {"HOME", "USER", "PWD", "PYTEST_CURRENT_TEST", "VIRTUAL_ENV", "DATABASE_URL"} & set(environment)
    assert seen["shared"] == "shared"
    assert seen["path"][0] == str(api.folder / "functions" / "echo")
    assert str(ROOT) not in seen["path"]
    assert str(ROOT / "local") not in seen["path"]


def test_the_context_tells_about_the_function(api: Running) -> None:
    seen = api.echo()
    assert seen["context"] | {"aws_request_id": ""} == {
        "aws_request_id": "",
        "function_name": "EchoFunction",
        "function_version": "$LATEST",
        "memory_limit_in_mb": "256",
        "invoked_function_arn": "arn:aws:lambda:us-east-1:000000000000:function:EchoFunction",
    }
    assert 0 < seen["remaining"] <= 5000
    assert seen["context"]["aws_request_id"] != api.echo()["context"]["aws_request_id"]


def test_one_warm_worker_serves_one_caller_after_the_other(api: Running) -> None:
    assert len({api.echo()["pid"] for _ in range(100)}) == 1


def test_output_is_logged_line_by_line_with_the_functions_name(api: Running) -> None:
    api.work(do="print", text="one\ntwo")
    until(lambda: {"WorkerFunction: one", "WorkerFunction: two"} <= set(api.lines))


# Answers.


@pytest.mark.parametrize(
    ("reply", "status", "body", "content_type"),
    [
        ({"statusCode": 201, "body": "made"}, 201, "made", "text/plain; charset=utf-8"),
        ({"statusCode": "202", "body": None}, 202, "", "text/plain; charset=utf-8"),
        ({"statusCode": 200, "headers": {"content-type": "text/html"}, "body": "é"}, 200, "é", "text/html"),
        ({"statusCode": 200, "body": "aMOp", "isBase64Encoded": True}, 200, "hé", "text/plain; charset=utf-8"),
        ({"hello": "world"}, 200, '{"hello": "world"}', "application/json"),
        (["a", 1], 200, '["a", 1]', "application/json"),
        ("plain", 200, "plain", "application/json"),
        (42, 200, "42", "application/json"),
        (None, 200, "null", "application/json"),
    ],
)
def test_results_become_answers(api: Running, reply: Any, status: int, body: str, content_type: str) -> None:
    answer = api.reply(reply)
    assert (answer.status_code, answer.content.decode(), answer.headers["content-type"]) == (
        *(status, body),
        content_type,
    )


def test_cookies_and_headers_are_sent_on(api: Running) -> None:
    answer = api.reply(
        {
            "statusCode": 200,
            "headers": {"X-Number": 5, "X-Text": "a", "Content-Length": "999", "Connection": "close"},
            "multiValueHeaders": {"X-Many": ["1", "2"]},
            "cookies": ["a=1; Path=/", "b=2"],
        }
    )
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert (answer.headers["x-number"], answer.headers["x-text"]) == ("5", "a")
    assert answer.headers["content-length"] == "0"
    assert "x-many" not in answer.headers
    assert "connection" not in answer.headers
    assert len(answer.headers["apigw-requestid"]) == 16


@pytest.mark.parametrize(
    "reply",
    [
        *[{"statusCode": 0}, {"statusCode": 99}, {"statusCode": 101}, {"statusCode": 600}, {"statusCode": 200.5}],
        *[{"statusCode": True}, {"statusCode": "abc"}, {"statusCode": None}, {"statusCode": 200, "body": {"a": 1}}],
        *[{"statusCode": 200, "headers": {"X-A": ["list"]}}, {"statusCode": 200, "headers": "text"}],
        {"statusCode": 200, "headers": {"X-A": "a\r\nSet-Cookie: stolen=1"}},
        {"statusCode": 200, "headers": {"X-A\r\nSet-Cookie": "stolen=1"}},
        {"statusCode": 200, "cookies": ["a=1\r\nX-Stolen: 1"]},
        {"statusCode": 200, "body": "!!!!", "isBase64Encoded": True},
    ],
)
def test_a_malformed_result_is_a_500_of_the_gateway(api: Running, reply: Any) -> None:
    answer = api.reply(reply)
    assert (answer.status_code, answer.text) == (500, '{"message":"Internal Server Error"}')
    assert "set-cookie" not in answer.headers
    assert "x-stolen" not in answer.headers


# Limits and attacks.


def test_a_body_over_ten_megabytes_is_refused(api: Running) -> None:
    with connect(api.gateway.url) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n")
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"message":"Request Entity Too Large"}')


def test_an_event_over_lambdas_six_megabytes_is_refused(api: Running) -> None:
    answer = api.http.post("/echo", content=b"x" * 5_000_000)  # a third more as base64
    assert (answer.status_code, answer.json()) == (413, {"message": "Request Entity Too Large"})
    assert len(api.echo("POST", content=b"x" * 200_000)["event"]["body"]) > 200_000


def test_headers_over_ten_kilobytes_are_refused(api: Running) -> None:
    for size, expected in ((9_000, 200), (10_240, 431), (20_000, 431)):
        answer = api.raw(b"GET /echo HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * size + b"\r\n\r\n")
        assert int(answer.split(b" ", 2)[1]) == expected
    assert answer.endswith(b'{"message":"Request header fields too large"}')


def test_a_result_over_lambdas_six_megabytes_is_a_500(api: Running) -> None:
    assert api.work(do="big").status_code == 500
    assert api.work(do="note").status_code == 200


def test_a_smuggled_request_reaches_no_function(api: Running) -> None:
    inner = b'POST /work HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n\r\n{"text": "smuggled ...."}'
    for shape in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 100\r\n\r\n",
        b"Content-Length: 0\n\r\n",
    ):
        answer = api.raw(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + shape + inner)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
    assert api.notes() == []


def test_pipelined_requests_are_answered_in_order(api: Running) -> None:
    requests = [f"GET /items/{number} HTTP/1.1\r\nHost: x\r\n\r\n" for number in range(10)]
    answers = api.raw("".join(requests).encode()).split(b"HTTP/1.1 200 OK")[1:]
    events = [json.loads(answer.partition(b"\r\n\r\n")[2])["event"] for answer in answers]
    assert [event["pathParameters"]["id"] for event in events] == [str(number) for number in range(10)]


def test_clients_that_hang_up_cost_no_worker(api: Running) -> None:
    body = b'{"do": "sleep", "seconds": 0.2}'
    for _ in range(6):
        with connect(api.gateway.url) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(b"POST /work HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    until(lambda: len((api.folder / "notes").read_text().split()) == 6)
    assert api.work(do="note").status_code == 200
    assert len(api.gateway.pids("WorkerFunction")) <= 2


# CORS.

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def test_the_gateway_answers_preflights_of_allowed_origins(api: Running) -> None:
    answer = api.http.options("/echo", headers={"Origin": "https://app.example.com", **PREFLIGHT})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
    assert answer.headers["access-control-allow-methods"] == "GET,POST"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert answer.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "https://app.example.com.evil.com", ""])
def test_other_origins_are_allowed_nothing(api: Running, origin: str) -> None:
    answer = api.http.options("/echo", headers={"Origin": origin, **PREFLIGHT})
    assert answer.status_code == 204
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    answer = api.http.get("/echo", headers={"Origin": origin})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_functions_own_cors_headers_are_replaced(api: Running) -> None:
    reply = {"statusCode": 200, "headers": {"access-control-allow-origin": "*", "Access-Control-Max-Age": "1"}}
    answer = api.reply(reply, Origin="http://localhost:5173")
    assert answer.headers.get_list("access-control-allow-origin") == ["http://localhost:5173"]
    assert answer.headers["access-control-expose-headers"] == "x-request-id"
    assert "access-control-max-age" not in answer.headers
    assert "access-control-allow-origin" not in api.reply(reply).headers


def test_the_gateways_own_answers_have_cors_headers_too(api: Running) -> None:
    answer = api.http.get("/unknown", headers={"Origin": "http://localhost:5173"})
    assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"


# Failures.


def test_an_exception_is_a_500_and_the_worker_goes_on(api: Running) -> None:
    pid = api.work(do="note").json()["pid"]
    answer = api.work(do="raise")
    assert (answer.status_code, answer.text) == (500, '{"message":"Internal Server Error"}')
    assert api.work(do="note").status_code == 200
    assert pid in api.gateway.pids("WorkerFunction")
    until(lambda: any("ValueError: as told" in line for line in api.lines))


def test_a_timeout_kills_the_worker_and_its_children(api: Running) -> None:
    answer = api.work(do="child")
    assert (answer.status_code, answer.text) == (500, '{"message":"Internal Server Error"}')
    assert "WorkerFunction: Task timed out after 1.00 seconds" in api.lines
    worker, child = map(int, api.notes()[0].split())
    until(lambda: not alive(worker) and not alive(child))
    assert api.work(do="note").json()["pid"] != worker


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_worker_that_exits_fails_its_caller_at_once_and_is_replaced(api: Running) -> None:
    assert api.work(do="exit").status_code == 500
    assert "WorkerFunction: Runtime exited with status 3" in api.lines
    assert api.work(do="note").status_code == 200


def test_a_worker_that_is_killed_is_replaced(api: Running) -> None:
    idle = api.echo()["pid"]
    os.kill(idle, signal.SIGKILL)
    until(lambda: idle not in api.gateway.pids("EchoFunction"))
    assert api.echo()["pid"] != idle
    with ThreadPoolExecutor(max_workers=8) as pool:
        api.work(do="note")
        api.notes()
        waiting = pool.submit(api.work, do="sleep", seconds=0.9)
        until(lambda: api.notes() == ["sleeping"])
        for pid in api.gateway.pids("WorkerFunction"):
            os.kill(pid, signal.SIGKILL)
        assert waiting.result().status_code == 500
    assert api.work(do="note").status_code == 200


def test_an_init_error_fails_all_who_wait_and_is_logged(api: Running) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{api.gateway.url}/broken", timeout=WAIT_SECONDS), range(5)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(500, '{"message":"Internal Server Error"}')}
    expected = "BrokenFunction: could not start: Runtime.ImportModuleError: "
    assert any(line.startswith(expected) and "no_such_module" in line for line in api.lines)
    until(lambda: api.gateway.pids("BrokenFunction") == [])


def test_warm_says_what_cannot_start(api: Running) -> None:
    (broken,) = api.loop.run(api.gateway.warm()).items()
    assert broken[0] == "BrokenFunction"
    assert "no_such_module" in broken[1]
    assert api.gateway.pids("EchoFunction")
    assert api.gateway.pids("WorkerFunction")


def test_callers_run_side_by_side_up_to_the_reserved_concurrency(own: Running) -> None:
    own.change_template("Timeout: 1\n", "Timeout: 20\n")
    own.start()
    with ThreadPoolExecutor(max_workers=6) as pool:
        calls = [pool.submit(own.work, do="wait", file=str(own.folder / "go")) for _ in range(6)]
        until(lambda: (own.folder / "notes").read_text().splitlines() == ["waiting"] * 2)
        (own.folder / "go").touch()
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.json()["pid"] for answer in answers}) == 2
    assert len(own.gateway.pids("WorkerFunction")) == 2


def test_callers_over_the_waiting_room_are_throttled(own: Running) -> None:
    own.change_template("Timeout: 1\n", "Timeout: 20\n")
    own.start(max_workers=1, max_waiting=2)
    own.loop.run(own.gateway.warm())
    with ThreadPoolExecutor(max_workers=8) as pool:
        calls = [pool.submit(own.work, do="wait", file=str(own.folder / "go")) for _ in range(8)]
        until(lambda: sum(call.done() for call in calls) == 5)
        (own.folder / "go").touch()
        answers = [call.result() for call in calls]
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 3
    assert statuses.count(503) == 5
    assert {answer.text for answer in answers if answer.status_code == 503} == {'{"message":"Service Unavailable"}'}


def test_an_integration_timeout_is_a_503_and_leaves_the_function_running(own: Running) -> None:
    own.change_template("Path: /work}", "Path: /work, TimeoutInMillis: 200}")
    own.start()
    own.loop.run(own.gateway.warm())
    answer = own.work(do="sleep", seconds=0.6)
    assert (answer.status_code, answer.text) == (503, '{"message":"Service Unavailable"}')
    pids = own.gateway.pids("WorkerFunction")
    assert len(pids) == 1
    until(lambda: own.work(do="note").status_code == 200)
    assert pids[0] in own.gateway.pids("WorkerFunction")


# Reload.


def test_a_changed_file_is_served_by_new_workers(own: Running) -> None:
    own.start(reload=True)
    path = own.folder / "layers" / "shared" / "shared_code" / "__init__.py"
    for name in ("shared", "sharee", "sharef"):  # of one length: Python must not take its .pyc for current
        path.write_text(f'NAME = "{name}"\n', encoding="utf-8")
        until(lambda name=name: own.echo()["shared"] == name)  # type: ignore[misc]  # mypy cannot type the default


def test_a_busy_worker_finishes_before_it_is_replaced(own: Running) -> None:
    own.start()
    before = own.work(do="note").json()["pid"]
    own.notes()
    with ThreadPoolExecutor(max_workers=8) as pool:
        waiting = pool.submit(own.work, do="sleep", seconds=0.5)
        until(lambda: own.notes() == ["sleeping"])
        own.loop.loop.call_soon_threadsafe(own.gateway.reload)
        assert own.work(do="note").json()["pid"] != before
        assert waiting.result().json()["pid"] == before
    until(lambda: not alive(before))


# The Invoke API.


def lambda_client(api: Running) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=api.gateway.invoke_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=botocore.config.Config(retries={"max_attempts": 0}),
    )


def test_boto3_invokes_a_function_and_gets_its_result(api: Running) -> None:
    for name in (
        *["WorkerFunction", "WorkerFunction:$LATEST", "000000000000:function:WorkerFunction"],
        "arn:aws:lambda:us-east-1:000000000000:function:WorkerFunction",
    ):
        answer = lambda_client(api).invoke(FunctionName=name, Payload=json.dumps({"text": "by boto3"}))
        assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
        assert "FunctionError" not in answer
        assert json.loads(answer["Payload"].read())["did"] is None
    assert api.notes() == ["by boto3"] * 4


def test_boto3_gets_a_functions_error(api: Running) -> None:
    answer = lambda_client(api).invoke(FunctionName="WorkerFunction", Payload=b'{"do": "raise"}')
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    error = json.loads(answer["Payload"].read())
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "as told")
    assert "raise ValueError" in "".join(error["stackTrace"])


def test_a_dry_run_runs_nothing(api: Running) -> None:
    answer = lambda_client(api).invoke(FunctionName="WorkerFunction", InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    assert api.notes() == []


def test_an_event_runs_later_and_again_if_it_fails(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoke, "RETRY_SECONDS", (0.05, 0.05))
    client = lambda_client(api)
    answer = client.invoke(FunctionName="WorkerFunction", InvocationType="Event", Payload=b'{"text": "later"}')
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    client.invoke(FunctionName="WorkerFunction", InvocationType="Event", Payload=b'{"do": "raise", "text": "again"}')
    api.loop.run(api.gateway.settled())
    assert sorted(api.notes()) == ["again", "again", "later"]  # MaximumRetryAttempts: 1
    assert any("gave up on the asynchronous invocation" in line for line in api.lines)


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
def test_the_invoke_api_refuses_as_lambda_does(api: Running, arguments: dict[str, Any], status: int, code: str) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        lambda_client(api).invoke(**arguments)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert refused.value.response["Error"]["Code"] == code


def test_the_invoke_api_throttles(own: Running) -> None:
    own.start(max_workers=1, max_waiting=0)
    with pytest.raises(botocore.exceptions.ClientError, match="TooManyRequestsException"):
        lambda_client(own).invoke(FunctionName="WorkerFunction", Payload=b"{}")


def test_an_unsigned_request_invokes_nothing(api: Running) -> None:
    path = "/2015-03-31/functions/WorkerFunction/invocations"
    answer = httpx.post(api.gateway.invoke_url + path, content=b'{"text": "unsigned"}')
    assert answer.status_code == 403
    assert httpx.get(api.gateway.invoke_url + path).status_code == 404
    assert api.notes() == []


# The schedule.


def test_a_schedule_sends_its_input_or_the_schedulers_event(api: Running) -> None:
    api.loop.loop.call_soon_threadsafe(api.gateway.fire, "nightly")
    until(lambda: api.notes() == ["nightly"])
    api.loop.loop.call_soon_threadsafe(api.gateway.fire, "WorkerFunctionHourly")
    until(lambda: (api.folder / "notes").read_text())
    event = json.loads(api.notes()[0])
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


# Start and stop.


def test_a_variable_without_a_value_is_named_at_the_start(own: Running) -> None:
    with pytest.raises(TemplateError, match=r"EchoFunction: no value for SECRET \(!Ref SecretArn\)"):
        own.start(overrides={"Parameters": {"OTHER": "x"}})
    with pytest.raises(TemplateError, match="not there: Typo"):
        own.start(overrides={"EchoFunction": {"SECRET": "x"}, "Typo": {}})
    own.start()


def test_overrides_may_ask_for_the_apis_url(own: Running) -> None:
    own.start(overrides=lambda api: {"EchoFunction": {"SECRET": api}}, environment={"EXTRA": "for all"})
    environment = own.echo()["environment"]
    assert environment["SECRET"] == own.gateway.url
    assert environment["EXTRA"] == "for all"


def test_a_port_in_use_is_an_os_error_and_leaves_nothing_behind(api: Running, own: Running) -> None:
    with pytest.raises(OSError, match="in use"):
        own.start(port=int(api.gateway.url.rpartition(":")[2]))
    own.start()


def test_stop_ends_every_process_and_lets_requests_finish(own: Running) -> None:
    own.start()
    own.loop.run(own.gateway.warm())
    own.notes()
    with ThreadPoolExecutor(max_workers=8) as pool:
        quick = pool.submit(own.work, do="sleep", seconds=0.05)
        until(lambda: own.notes() == ["sleeping"])
        pids = own.gateway.pids("EchoFunction") + own.gateway.pids("WorkerFunction")
        own.loop.run(own.gateway.stop())
        assert quick.result().status_code == 200
    assert [pid for pid in pids if alive(pid)] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(own.gateway.url)


def test_workers_die_with_a_platform_that_is_killed(own: Running) -> None:
    (own.folder / "notes").touch()
    script = f"""
import asyncio, sys
from pathlib import Path
from local.gateway import Gateway
from local.template import load

async def main():
    folder = Path({str(own.folder)!r})
    overrides = {{"EchoFunction": {{"SECRET": "x"}}, "WorkerFunction": {{"STAGE": str(folder / "notes")}}}}
    gateway = await Gateway.start(load(folder / "template.yaml"), overrides=overrides, client={own.client!r})
    await gateway.warm()
    print(gateway.url, *gateway.pids("EchoFunction"), *gateway.pids("WorkerFunction"), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    command = [sys.executable, "-c", script]
    platform = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert platform.stdout is not None
        url, *pids = platform.stdout.readline().split()
        body = json.dumps({"do": "sleep", "seconds": 30})
        with connect(url) as connection:
            head = f"POST /work HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            until(lambda: "sleeping" in (own.folder / "notes").read_text())
            platform.kill()
            until(lambda: not any(alive(int(pid)) for pid in pids))
    finally:
        platform.kill()
        platform.wait()
        assert platform.stdout is not None
        platform.stdout.close()
    own.start()


def test_pythons_asyncio_debug_mode_finds_nothing(own: Running) -> None:
    own.loop.loop.set_debug(True)
    own.start()
    assert own.work(do="note").status_code == 200
    own.loop.run(asyncio.sleep(0))
