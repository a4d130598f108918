"""Workers and their gateway: surroundings, limits, failures, reload, start and stop."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from local.template import TemplateError
from tests.local.fixtures.loop import connect, read_to_end
from tests.local.fixtures.running import WAIT_SECONDS, Running, alive, until

ROOT = Path(__file__).resolve().parents[2]

# The worker's surroundings.


def test_a_worker_has_lambdas_environment_and_nothing_of_ours(running: Running) -> None:
    seen = running.echo()
    environment = seen["environment"]
    assert environment["SECRET"] == "s3cret"
    assert environment["GREETING"] == "hi"
    assert environment["STAGE"] == "prod"
    assert environment["MODE"] == "careful"
    assert environment["OTHER_FUNCTION"] == "WorkerFunction"
    assert environment["AWS_ENDPOINT_URL_LAMBDA"] == running.gateway.invoke_url
    assert environment["LAMBDA_TASK_ROOT"] == str(running.folder / "functions" / "echo")
    assert environment["_HANDLER"] == "app.lambda_handler"
    assert set(environment) <= {
        *["PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "LANG", "LC_CTYPE", "TZ", "PYTHONPATH"],
        *["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_ENDPOINT_URL_LAMBDA"],
        *[f"AWS_LAMBDA_FUNCTION_{name}" for name in ("MEMORY_SIZE", "NAME", "VERSION")],
        *[f"AWS_LAMBDA_LOG_{name}_NAME" for name in ("GROUP", "STREAM")],
        *["AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_INITIALIZATION_TYPE", "LAMBDA_TASK_ROOT", "_HANDLER"],
        *["_X_AMZN_TRACE_ID", "STAGE", "GREETING", "SECRET", "OTHER_FUNCTION", "MODE"],
    }
    assert seen["shared"] == "shared"
    assert seen["path"][0] == str(running.folder / "functions" / "echo")
    assert str(ROOT) not in seen["path"]
    assert str(ROOT / "local") not in seen["path"]


def test_the_context_tells_about_the_function(running: Running) -> None:
    seen = running.echo()
    assert seen["context"] | {"aws_request_id": ""} == {
        "aws_request_id": "",
        "function_name": "EchoFunction",
        "function_version": "$LATEST",
        "memory_limit_in_mb": "256",
        "invoked_function_arn": "arn:aws:lambda:us-east-1:000000000000:function:EchoFunction",
    }
    assert 0 < seen["remaining"] <= 5000
    assert seen["context"]["aws_request_id"] != running.echo()["context"]["aws_request_id"]


def test_one_warm_worker_serves_one_caller_after_the_other(running: Running) -> None:
    assert len({running.echo()["pid"] for _ in range(100)}) == 1


def test_output_is_logged_line_by_line_with_the_functions_name(running: Running) -> None:
    running.work(do="print", text="one\ntwo")
    until(lambda: {"WorkerFunction: one", "WorkerFunction: two"} <= set(running.lines))


# Limits and attacks.


def test_a_body_over_ten_megabytes_is_refused(running: Running) -> None:
    with connect(running.gateway.url) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n")
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"message":"Request Entity Too Large"}')


def test_an_event_over_lambdas_six_megabytes_is_refused(running: Running) -> None:
    answer = running.http.post("/echo", content=b"x" * 5_000_000)  # a third more as base64
    assert (answer.status_code, answer.json()) == (413, {"message": "Request Entity Too Large"})
    assert len(running.echo("POST", content=b"x" * 200_000)["event"]["body"]) > 200_000


def test_headers_over_ten_kilobytes_are_refused(running: Running) -> None:
    for size, expected in ((9_000, 200), (10_240, 431), (20_000, 431)):
        answer = running.raw(b"GET /echo HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * size + b"\r\n\r\n")
        assert int(answer.split(b" ", 2)[1]) == expected
    assert answer.endswith(b'{"message":"Request header fields too large"}')


def test_a_result_over_lambdas_six_megabytes_is_a_500(running: Running) -> None:
    assert running.work(do="big").status_code == 500
    assert running.work(do="note").status_code == 200


def test_a_smuggled_request_reaches_no_function(running: Running) -> None:
    inner = b'POST /work HTTP/1.1\r\nHost: x\r\nContent-Length: 24\r\n\r\n{"text": "smuggled ...."}'
    for shape in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 100\r\n\r\n",
        b"Content-Length: 0\n\r\n",
    ):
        answer = running.raw(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + shape + inner)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
    assert running.notes() == []


def test_pipelined_requests_are_answered_in_order(running: Running) -> None:
    requests = [f"GET /items/{number} HTTP/1.1\r\nHost: x\r\n\r\n" for number in range(10)]
    answers = running.raw("".join(requests).encode()).split(b"HTTP/1.1 200 OK")[1:]
    events = [json.loads(answer.partition(b"\r\n\r\n")[2])["event"] for answer in answers]
    assert [event["pathParameters"]["id"] for event in events] == [str(number) for number in range(10)]


def test_clients_that_hang_up_cost_no_worker(running: Running) -> None:
    body = b'{"do": "sleep", "seconds": 0.2}'
    for _ in range(6):
        with connect(running.gateway.url) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(b"POST /work HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    until(lambda: len((running.folder / "notes").read_text().split()) == 6)
    assert running.work(do="note").status_code == 200
    assert len(running.gateway.pids("WorkerFunction")) <= 2


# Failures.


def test_an_exception_is_a_500_and_the_worker_goes_on(running: Running) -> None:
    pid = running.work(do="note").json()["pid"]
    answer = running.work(do="raise")
    assert (answer.status_code, answer.text) == (500, '{"message":"Internal Server Error"}')
    assert running.work(do="note").status_code == 200
    assert pid in running.gateway.pids("WorkerFunction")
    until(lambda: any("ValueError: as told" in line for line in running.lines))


def test_a_timeout_kills_the_worker_and_its_children(running: Running) -> None:
    answer = running.work(do="child")
    assert (answer.status_code, answer.text) == (500, '{"message":"Internal Server Error"}')
    assert "WorkerFunction: Task timed out after 1.00 seconds" in running.lines
    worker, child = map(int, running.notes()[0].split())
    until(lambda: not alive(worker) and not alive(child))
    assert running.work(do="note").json()["pid"] != worker


def test_a_worker_that_exits_fails_its_caller_at_once_and_is_replaced(running: Running) -> None:
    assert running.work(do="exit").status_code == 500
    assert "WorkerFunction: Runtime exited with status 3" in running.lines
    assert running.work(do="note").status_code == 200


def test_a_worker_that_is_killed_is_replaced(running: Running) -> None:
    idle = running.echo()["pid"]
    os.kill(idle, signal.SIGKILL)
    until(lambda: idle not in running.gateway.pids("EchoFunction"))
    assert running.echo()["pid"] != idle
    with ThreadPoolExecutor(max_workers=8) as pool:
        running.work(do="note")
        running.notes()
        waiting = pool.submit(running.work, do="sleep", seconds=0.9)
        until(lambda: running.notes() == ["sleeping"])
        for pid in running.gateway.pids("WorkerFunction"):
            os.kill(pid, signal.SIGKILL)
        assert waiting.result().status_code == 500
    assert running.work(do="note").status_code == 200


def test_an_init_error_fails_all_who_wait_and_is_logged(running: Running) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{running.gateway.url}/broken", timeout=WAIT_SECONDS), range(5)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(500, '{"message":"Internal Server Error"}')}
    expected = "BrokenFunction: could not start: Runtime.ImportModuleError: "
    assert any(line.startswith(expected) and "no_such_module" in line for line in running.lines)
    until(lambda: running.gateway.pids("BrokenFunction") == [])


def test_warm_says_what_cannot_start(running: Running) -> None:
    (broken,) = running.loop.run(running.gateway.warm()).items()
    assert broken[0] == "BrokenFunction"
    assert "no_such_module" in broken[1]
    assert running.gateway.pids("EchoFunction")
    assert running.gateway.pids("WorkerFunction")


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
    own.start(max_workers=1)
    own.loop.run(own.gateway.warm())
    pids = own.gateway.pids("WorkerFunction")
    for answer in (own.work(do="sleep", seconds=0.9), own.work(text="gave up waiting")):
        assert (answer.status_code, answer.text) == (503, '{"message":"Service Unavailable"}')
    until(lambda: own.work(text="served").status_code == 200)
    assert own.gateway.pids("WorkerFunction") == pids
    assert "gave up waiting" not in own.notes()


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


def test_a_port_in_use_is_an_os_error_and_leaves_nothing_behind(running: Running, own: Running) -> None:
    with pytest.raises(OSError, match="in use"):
        own.start(port=int(running.gateway.url.rpartition(":")[2]))
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
    until(lambda: not asyncio.all_tasks(own.loop.loop))
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
