"""HTTP to events and results to HTTP, through real workers: what a function sees and what a client gets."""

import base64
import json
from typing import Any

import pytest

from tests.local.fixtures.running import Running

# Events.


def test_an_event_has_what_api_gateway_sends_and_nothing_else(running: Running) -> None:
    headers = [("X-Twice", "first"), ("x-twice", "second"), ("Cookie", "a=1; b=2"), ("User-Agent", "tests")]
    event = running.echo(path="/items/7/parts/9?a=1&b=2&a=3&c=", headers=headers)["event"]
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


def test_absent_parts_are_left_out_of_the_event(running: Running) -> None:
    event = running.echo()["event"]
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
def test_paths_arrive_decoded(running: Running, path: str, raw: str, parameters: dict[str, str]) -> None:
    answer = running.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
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
def test_queries_arrive_raw_and_decoded(running: Running, query: str, parameters: dict[str, str]) -> None:
    answer = running.raw(f"GET /echo?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
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
def test_bodies_are_text_or_base64_by_their_type(running: Running, content_type: str | None, text: bool) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    event = running.echo("POST", content="héllo".encode(), headers=headers)["event"]
    assert event["isBase64Encoded"] is not text
    assert event["body"] == ("héllo" if text else base64.b64encode("héllo".encode()).decode())
    assert event["headers"]["content-length"] == "6"


def test_a_text_body_that_is_no_text_arrives_as_base64(running: Running) -> None:
    event = running.echo("POST", content=b"\xff\xfe{}", headers={"Content-Type": "application/json"})["event"]
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
def test_the_most_specific_route_is_taken(running: Running, method: str, path: str, route: str) -> None:
    assert running.echo(method, path)["event"]["routeKey"] == route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", "/"), ("GET", "/unknown"), ("DELETE", "/echo"), ("HEAD", "/echo"), ("OPTIONS", "/echo")],
        *[("GET", "/echo/"), ("GET", "//echo"), ("GET", "/items/"), ("GET", "/items"), ("GET", "/files/")],
        *[("GET", "/items/1/2"), ("GET", "/ECHO"), ("get", "/echo")],
    ],
)
def test_what_is_no_route_is_a_404_of_the_gateway(running: Running, method: str, path: str) -> None:
    answer = running.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert body == (b"" if method == "HEAD" else b'{"message":"Not Found"}')
    assert b"\r\nApigw-Requestid: " in head


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
def test_results_become_answers(running: Running, reply: Any, status: int, body: str, content_type: str) -> None:
    answer = running.reply(reply)
    assert (answer.status_code, answer.content.decode(), answer.headers["content-type"]) == (
        *(status, body),
        content_type,
    )


def test_cookies_and_headers_are_sent_on(running: Running) -> None:
    answer = running.reply(
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
def test_a_malformed_result_is_a_500_of_the_gateway(running: Running, reply: Any) -> None:
    answer = running.reply(reply)
    assert (answer.status_code, answer.text) == (500, '{"message":"Internal Server Error"}')
    assert "set-cookie" not in answer.headers
    assert "x-stolen" not in answer.headers


# CORS.

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def test_the_gateway_answers_preflights_of_allowed_origins(running: Running) -> None:
    answer = running.http.options("/echo", headers={"Origin": "https://app.example.com", **PREFLIGHT})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
    assert answer.headers["access-control-allow-methods"] == "GET,POST"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert answer.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "https://app.example.com.evil.com", ""])
def test_other_origins_are_allowed_nothing(running: Running, origin: str) -> None:
    answer = running.http.options("/echo", headers={"Origin": origin, **PREFLIGHT})
    assert answer.status_code == 204
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    answer = running.http.get("/echo", headers={"Origin": origin})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_functions_own_cors_headers_are_replaced(running: Running) -> None:
    reply = {"statusCode": 200, "headers": {"access-control-allow-origin": "*", "Access-Control-Max-Age": "1"}}
    answer = running.reply(reply, Origin="http://localhost:5173")
    assert answer.headers.get_list("access-control-allow-origin") == ["http://localhost:5173"]
    assert answer.headers["access-control-expose-headers"] == "x-request-id"
    assert "access-control-max-age" not in answer.headers
    assert "access-control-allow-origin" not in running.reply(reply).headers


def test_the_gateways_own_answers_have_cors_headers_too(running: Running) -> None:
    answer = running.http.get("/unknown", headers={"Origin": "http://localhost:5173"})
    assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"
