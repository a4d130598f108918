"""The bank simulator as it runs: a process of its own, posting to a webhook that records what it gets."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {bank: [f"whsec_{'ab' * 16}"] for bank in ("hdfc", "axis", "icici")}
REFERENCE = "5b0c5b0e-6b6c-8a4e-9c5e-0d8f1c2b3a49"


@dataclass
class Hook:
    """A webhook that answers what it is told to and remembers what it got."""

    url: str = ""
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # statuses for the next requests, then 200; 0 hangs up
    changed: threading.Condition = field(default_factory=threading.Condition)


@pytest.fixture(scope="module")
def webhook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with hook.changed:
                hook.received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status = hook.answers.pop(0) if hook.answers else 200
                hook.changed.notify_all()
            if status:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b'{"status": "processed"}')

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield hook
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hook(webhook: Hook) -> Hook:
    """The webhook as if it were new."""
    webhook.received.clear()
    webhook.answers.clear()
    return webhook


@dataclass
class Bank:
    url: str
    process: subprocess.Popen[str]

    def address(self, bank: str = "hdfc", **query: str) -> str:
        expires = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
        asked = {"reference": REFERENCE, "amount": "500000", "currency": "INR", "expires_at": expires} | query
        return str(httpx.URL(f"{self.url}/{bank}/pay", params=asked))

    def order(self, action: str = "approve", **fields: Any) -> list[dict[str, Any]]:
        answer = httpx.post(self.address(), json={"action": action} | fields, timeout=20)
        assert answer.status_code == 200, answer.text
        deliveries: list[dict[str, Any]] = answer.json()["deliveries"]
        return deliveries


@contextlib.contextmanager
def running(webhook: Hook) -> Iterator[Bank]:
    process = subprocess.Popen(
        [sys.executable, "-m", "local.bank", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps({"api": webhook.url, "secrets": SECRETS}) + "\n")
    process.stdin.flush()
    yield Bank(json.loads(process.stdout.readline())["url"], process)
    process.stdin.close()  # what it sees when the platform is gone
    try:
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture(scope="module")
def bank(webhook: Hook) -> Iterator[Bank]:
    with running(webhook) as bank:
        yield bank


def events(hook: Hook) -> list[dict[str, Any]]:
    """What was received, each checked against the bank's key."""
    found = []
    for _, headers, body in hook.received:
        found.append(Webhook(SECRETS["hdfc"][0]).verify(body, headers))
    return found


def test_approving_sends_one_signed_event(bank: Bank, hook: Hook) -> None:
    deliveries = bank.order()
    [event] = events(hook)
    assert hook.received[0][0] == "/v1/webhooks/bank/hdfc"
    assert event["type"] == "deposit.succeeded"
    assert event["data"] == {
        "reference": REFERENCE,
        "bank_reference": deliveries[0]["bank_reference"],
        "amount": 500000,
        "currency": "INR",
    }
    assert deliveries == [
        {
            "webhook_id": hook.received[0][1]["webhook-id"],
            "type": "deposit.succeeded",
            "bank_reference": event["data"]["bank_reference"],
            "attempts": 1,
            "status": 200,
            "answer": {"status": "processed"},
        }
    ]


def test_declining_sends_the_failure(bank: Bank, hook: Hook) -> None:
    bank.order("decline")
    [event] = events(hook)
    assert (event["type"], event["data"]["reason"]) == ("deposit.failed", "declined")


def test_paying_twice_is_one_payment_for_the_bank(bank: Bank, hook: Hook) -> None:
    first, second = bank.order()[0], bank.order()[0]
    assert first["bank_reference"] == second["bank_reference"]
    assert first["webhook_id"] != second["webhook_id"]
    assert bank.order("decline")[0]["bank_reference"] != first["bank_reference"]


def test_the_same_event_several_times(bank: Bank, hook: Hook) -> None:
    assert len({delivery["webhook_id"] for delivery in bank.order(times=3)}) == 1
    assert len({body for _, _, body in hook.received}) == 1
    hook.received.clear()
    deliveries = bank.order(times=4, new_ids=True, at_once=True)
    assert len({delivery["webhook_id"] for delivery in deliveries}) == 4
    assert len({event["data"]["bank_reference"] for event in events(hook)}) == 1


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("failed_first", ["deposit.failed", "deposit.succeeded"]),
        ("success_first", ["deposit.succeeded", "deposit.failed"]),
    ],
)
def test_both_events_in_the_order_asked_for(bank: Bank, hook: Hook, order: str, expected: list[str]) -> None:
    bank.order(order=order)
    assert [event["type"] for event in events(hook)] == expected


def test_what_it_is_told_to_get_wrong_is_wrong(bank: Bank, hook: Hook) -> None:
    bank.order(amount=1, currency="USD", bank_reference="X1", webhook_id="msg_mine", unknown_reference=True)
    [event] = events(hook)
    assert (event["data"]["amount"], event["data"]["currency"]) == (1, "USD")
    assert event["data"]["bank_reference"] == "X1"
    assert event["data"]["reference"] != REFERENCE
    assert hook.received[0][1]["webhook-id"] == "msg_mine"


@pytest.mark.parametrize("misbehaviour", [{"bad_signature": True}, {"skew_seconds": -301}, {"skew_seconds": 301}])
def test_a_wrong_signature_or_clock_does_not_verify(bank: Bank, hook: Hook, misbehaviour: dict[str, Any]) -> None:
    bank.order(**misbehaviour)
    with pytest.raises(WebhookVerificationError):
        events(hook)


def test_an_oversized_body_is_signed_all_the_same(bank: Bank, hook: Hook) -> None:
    bank.order(oversize=True)
    assert len(hook.received[0][2]) > 64 * 1024
    events(hook)


def test_it_tries_again_until_it_is_answered(bank: Bank, hook: Hook) -> None:
    hook.answers = [503, 0]
    [delivery] = bank.order()
    assert (delivery["attempts"], delivery["status"]) == (3, 200)
    assert {headers["webhook-id"] for _, headers, _ in hook.received} == {delivery["webhook_id"]}
    assert len(events(hook)) == 3


def test_a_refusal_is_final(bank: Bank, hook: Hook) -> None:
    hook.answers = [401]
    [delivery] = bank.order()
    assert (delivery["attempts"], delivery["status"], len(hook.received)) == (1, 401, 1)


def test_a_delayed_event_arrives_later(bank: Bank, hook: Hook) -> None:
    answer = httpx.post(bank.address(), json={"action": "approve", "delay_seconds": 0.3})
    assert (answer.status_code, answer.json()["deliveries"], hook.received) == (202, [], [])
    with hook.changed:
        assert hook.changed.wait_for(lambda: hook.received, timeout=10)
    assert events(hook)[0]["type"] == "deposit.succeeded"


def test_an_expired_payment_fails_whichever_button_is_pressed(bank: Bank, hook: Hook) -> None:
    address = bank.address(expires_at="2020-01-01T00:00:00.000Z")
    assert "is over" in httpx.get(address).text
    httpx.post(address, json={"action": "approve"})
    httpx.post(address, json={"action": "approve", "ignore_expiry": True})
    first, second = events(hook)
    assert (first["type"], first["data"]["reason"]) == ("deposit.failed", "expired")
    assert second["type"] == "deposit.succeeded"


def test_the_page_shows_the_amount_and_escapes_everything(bank: Bank) -> None:
    text = httpx.get(bank.address(reference="<script>alert(1)</script>")).text
    assert "INR 5,000.00" in text
    assert "<script>" not in text
    assert 'name="action" value="approve"' in text
    assert "JPY 500,000<" in httpx.get(bank.address(currency="JPY")).text


def test_the_form_does_the_same_as_json_and_shows_the_answer(bank: Bank, hook: Hook) -> None:
    form = {"action": "approve", "times": "2", "new_ids": "on", "amount": "", "order": "", "currency": ""}
    answer = httpx.post(bank.address(), data=form)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.count("deposit.succeeded") == 2
    assert "processed" in answer.text
    assert len(events(hook)) == 2


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object"),
        ("{}", "action"),
        ('{"action": "steal"}', "action"),
        ('{"action": "approve", "tims": 2}', "tims"),
        ('{"action": "approve", "times": 11}', "times"),
        ('{"action": "approve", "times": true}', "times"),
        ('{"action": "approve", "delay_seconds": 61}', "delay_seconds"),
        ('{"action": "approve", "delay_seconds": NaN}', "delay_seconds"),
        ('{"action": "approve", "delay_seconds": []}', "delay_seconds"),
        ('{"action": "approve", "amount": -1}', "amount"),
        ('{"action": "approve", "amount": 1.5}', "amount"),
        ('{"action": "approve", "currency": "inr"}', "currency"),
        ('{"action": "approve", "order": "sideways"}', "order"),
        ('{"action": "approve", "bank_reference": ""}', "bank_reference"),
        ('{"action": "approve", "webhook_id": "a\\r\\nb"}', "webhook_id"),
        ('{"action": "approve", "bad_signature": 1}', "bad_signature"),
    ],
)
def test_bad_orders_are_refused_with_a_reason(bank: Bank, hook: Hook, body: str, hint: str) -> None:
    answer = httpx.post(bank.address(), content=body, headers={"Content-Type": "application/json"})
    expected = 413 if len(body) > 64 * 1024 else 400
    assert answer.status_code == expected, answer.text
    assert expected == 413 or hint in answer.json()["error"]
    assert hook.received == []


@pytest.mark.parametrize(
    "query",
    [
        {"reference": ""},
        {"amount": "0"},
        {"amount": "9007199254740992"},
        {"amount": "\uff11\uff12"},
        {"amount": "-5"},
        {"currency": "RUPEE"},
        {"expires_at": "soon"},
        {"expires_at": "2026-01-01T00:00:00"},
    ],
)
def test_bad_addresses_are_refused_with_a_reason(bank: Bank, query: dict[str, str]) -> None:
    answer = httpx.get(bank.address(**query))
    assert answer.status_code == 400
    assert next(iter(query)) in answer.text


def test_other_paths_and_methods(bank: Bank) -> None:
    assert httpx.get(bank.url).status_code == 200
    assert httpx.get(f"{bank.url}/sbi/pay").status_code == 404
    assert httpx.get(f"{bank.url}/hdfc").status_code == 404
    assert httpx.delete(bank.address()).status_code == 405
    assert httpx.post(bank.address(), content="x").status_code == 400


def test_it_ends_at_once_even_while_a_delivery_waits(hook: Hook) -> None:
    hook.answers = [503] * 20

    def approve(bank: Bank) -> None:
        with contextlib.suppress(httpx.HTTPError):
            bank.order()

    with running(hook) as own:
        thread = threading.Thread(target=approve, args=(own,))
        thread.start()
        with hook.changed:
            assert hook.changed.wait_for(lambda: hook.received, timeout=10)
        own.process.terminate()
        assert own.process.wait(5) == 0  # its retries alone would take longer
        thread.join(10)


def test_a_port_in_use_is_said(bank: Bank) -> None:
    port = bank.url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "local.bank", "--port", port],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=json.dumps({"api": "http://127.0.0.1:1", "secrets": SECRETS}) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert "in use" in json.loads(done.stdout)["error"]
