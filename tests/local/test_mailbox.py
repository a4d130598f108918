"""The mailbox, sent to by the client that the functions use."""

import asyncio
import html
import json
import shlex
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import httpx
import pytest

from local import mailbox
from local.http import Request, serve, stop, url


@pytest.fixture
def box() -> Iterator[str]:
    """URL of a mailbox that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(
        serve(mailbox.Mailbox().handle, "127.0.0.1", 0, max_body=mailbox.MAX_BODY_BYTES), loop
    ).result(10)
    yield url(server)
    asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def client(box: str) -> Any:
    return boto3.client(
        "sesv2",
        endpoint_url=box,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )


def send(box: str, to: str, subject: str = "Your code", text: str = "123456") -> str:
    answer = client(box).send_email(
        FromEmailAddress="okane@example.com",
        Destination={"ToAddresses": [to]},
        Content={"Simple": {"Subject": {"Data": subject}, "Body": {"Text": {"Data": text}}}},
    )
    message_id: str = answer["MessageId"]
    return message_id


def test_what_boto3_sends_is_there_newest_first(box: str) -> None:
    assert send(box, "asha@example.com", text="first")
    send(box, "ravi@example.com", text="other")
    send(box, "Asha@example.com", text="第二")
    found = httpx.get(f"{box}/messages", params={"to": "asha@example.com"}).json()["data"]
    assert [mail["text"] for mail in found] == ["第二", "first"]
    assert set(found[0]) == {"to", "subject", "text", "sent_at"}
    assert len(httpx.get(f"{box}/messages").json()["data"]) == 3


def test_a_plus_in_an_address_is_found_however_it_is_encoded(box: str) -> None:
    send(box, "asha+bank@example.com")
    assert len(httpx.get(f"{box}/messages?to=asha+bank@example.com").json()["data"]) == 1
    assert len(httpx.get(f"{box}/messages?to=asha%2Bbank%40example.com").json()["data"]) == 1


def test_the_page_lists_mails_escaped(box: str) -> None:
    assert "No mail yet" in httpx.get(box).text
    send(box, "asha@example.com", subject="<b>hello</b>", text="<script>alert(1)</script>")
    text = httpx.get(box).text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "<b>hello" not in text


def test_it_keeps_a_bounded_number() -> None:
    small = mailbox.Mailbox(kept=2)
    ses = {
        "FromEmailAddress": "okane@example.com",
        "Destination": {"ToAddresses": [f"p{n}@example.com" for n in range(3)]},
        "Content": {"Simple": {"Subject": {"Data": "s"}, "Body": {"Text": {"Data": "t"}}}},
    }
    request = Request("POST", "/v2/email/outbound-emails", [], json.dumps(ses).encode(), "127.0.0.1")
    asyncio.run(small.handle(request))
    answer = asyncio.run(small.handle(Request("GET", "/messages", [], b"", "127.0.0.1")))
    assert [mail["to"] for mail in json.loads(answer.body)["data"]] == ["p2@example.com", "p1@example.com"]


def test_whoever_is_sent_back_to_it_sees_how_a_code_is_exchanged(box: str) -> None:
    page = httpx.get(f"{box}/signed-in", params={"code": "Ab_-9"})
    line = html.unescape(page.text).partition("<pre><code>")[2].partition("</code></pre>")[0]
    command = shlex.split(line)
    assert command[:2] == ["curl", "$API/v1/auth/google/token"]
    assert json.loads(command[command.index("-d") + 1]) == {"code": "Ab_-9"}
    assert page.headers["cache-control"] == "no-store"
    assert "access_denied" in httpx.get(f"{box}/signed-in?error=access_denied").text
    assert httpx.get(f"{box}/signed-in").status_code == 200


@pytest.mark.parametrize("name", ["code", "error"])
def test_what_it_is_sent_is_escaped(box: str, name: str) -> None:
    evil = "<script>alert(1)</script>'; touch x; '$(touch x)"
    text = httpx.get(f"{box}/signed-in", params={name: evil}).text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    if name == "code":
        line = html.unescape(text).partition("<pre><code>")[2].partition("</code></pre>")[0]
        assert json.loads(shlex.split(line)[-1]) == {"code": evil}  # one argument, whatever is in it


@pytest.mark.parametrize(("to", "subject"), [("nobody", "s"), ("a@example.com", "two\r\nlines"), ("", "s")])
def test_what_ses_refuses_is_an_error_for_boto3(box: str, to: str, subject: str) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        send(box, to, subject=subject)
    assert caught.value.response["Error"]["Code"] == "BadRequestException"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"Content": 1}', b"[" * 100_000, b"\xff"])
def test_anything_else_is_refused(box: str, body: bytes) -> None:
    assert httpx.post(f"{box}/v2/email/outbound-emails", content=body).status_code == 400
    assert httpx.get(f"{box}/elsewhere").status_code == 404
