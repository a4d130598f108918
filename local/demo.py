"""`./okane demo`: the whole story over HTTP, against a running `./okane up`.

Two people sign up, money comes in through a bank that says so three times, part of it goes from one to the other, the same
request again changes nothing; an amount is held, captured in part and given back; money goes out to a bank; then what must be
refused is refused; a forgotten password is set anew, which ends every session, and somebody comes by the OpenID provider that
stands in Google's place. Every step prints the request, the status and the part
of the answer that matters. Anything else than what should happen ends it with exit code 1.
"""

import argparse
import json
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from local.provider import is_local
from local.state import StateError, read_endpoints

SECONDS = 15
DATA = Path(__file__).resolve().parent.parent / ".okane"
DEPOSIT, PAYMENT, PAYOUT = 500_000, 125_000, 100_000  # paise


class DeviationError(Exception):
    """A step did not go as it must; the message says how."""


class Story:
    """One run: where the platform is, and what is printed on the way."""

    def __init__(self, folder: Path) -> None:
        self.endpoints = read_endpoints(folder)
        self.http = httpx.Client(timeout=SECONDS, trust_env=False)

    def step(
        self,
        title: str,
        method: str,
        url: str,
        status: int,
        *,
        body: object = None,
        show: tuple[str, ...] = (),
        **headers: str,
    ) -> Any:
        """Send one request, print it, and return its answer. Raises DeviationError unless the status is `status`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.request(method, url, json=body, headers=named)
        path = url.removeprefix(self.endpoints.api)
        print(f"\n{title}\n  {method} {path if len(path) < 100 else path[:97] + '...'}")
        if body is not None:
            print(f"  {json.dumps(_shown(body), ensure_ascii=False)}")
        content = answer.json() if answer.content else {}
        replayed = " Idempotent-Replayed: true" if "idempotent-replayed" in answer.headers else ""
        part = {name: content[name] for name in show if name in content}
        print(f"  -> {answer.status_code}{replayed} {json.dumps(part, ensure_ascii=False) if part else ''}".rstrip())
        if answer.status_code != status:
            raise DeviationError(f"{title}: {answer.status_code} instead of {status}: {answer.text[:500]}")
        return {**content, "replayed": bool(replayed)} if isinstance(content, dict) else content

    def api(self, title: str, method: str, path: str, status: int, **details: Any) -> Any:
        return self.step(title, method, self.endpoints.api + path, status, **details)

    def join(self, name: str) -> dict[str, Any]:
        """Sign up, take the code from the mailbox, prove the address, sign in. Returns the profile with the token."""
        email, password = f"{name.lower()}.{secrets.token_hex(4)}@example.com", secrets.token_urlsafe(12)
        who = {"email": email, "password": password, "name": name}
        self.api(f"{name} signs up", "POST", "/v1/auth/register", 202, body=who, show=("message",))
        proof = {"email": email, "code": self.newest_code(email)}
        self.api(f"{name} proves the address", "POST", "/v1/auth/verify", 200, body=proof)
        log_in = {"email": email, "password": password}
        tokens = self.api(
            f"{name} signs in", "POST", "/v1/auth/login", 200, body=log_in, show=("token_type", "expires_in")
        )
        bearer = f"Bearer {tokens['access_token']}"
        profile = self.api(
            f"{name}'s profile", "GET", "/v1/me", 200, authorization=bearer, show=("handle", "email_verified")
        )
        return {**profile, "bearer": bearer}

    def newest_code(self, email: str) -> str:
        """The code of the newest mail to an address."""
        mails = self.step("A code is in the mailbox", "GET", f"{self.endpoints.mailbox}/messages?to={email}", 200)
        codes = re.findall(r"\b\d{6}\b", mails["data"][0]["text"])
        expect(len(codes) == 1, "one six-digit code in the newest mail", codes)
        return str(codes[0])

    def follow(self, title: str, method: str, url: str, *, form: Mapping[str, str] | None = None) -> str:
        """Go where a browser is sent; the address that it is sent to next. Raises DeviationError unless it is sent on."""
        answer = self.http.request(method, url, data=form)
        print(f"\n{title}\n  {method} {url.partition('?')[0]}\n  -> {answer.status_code}")
        if answer.status_code != 302:
            raise DeviationError(f"{title}: {answer.status_code} instead of 302: {answer.text[:500]}")
        return answer.headers["location"]


def expect(right: bool, what: str, found: object) -> None:
    """Raises DeviationError unless `right`."""
    if not right:
        raise DeviationError(f"expected {what}, found {found!r}")
    print(f"  ok: {what}")


def tell(story: Story) -> None:
    """The story from the first sign-up to the last refusal."""
    asha, ravi = story.join("Asha"), story.join("Ravi")
    deposit = bring_money_in(story, asha)
    send_money(story, asha, ravi)
    hold_and_give_back(story, asha, ravi)
    pay_out(story, asha)
    refuse(story, asha, ravi, deposit)
    forget_and_reset(story, asha)
    come_by_google(story)


def bring_money_in(story: Story, asha: Mapping[str, Any]) -> str:
    """A deposit that the bank reports three times. Returns its id."""
    intent = story.api(
        "Asha asks her bank for money",
        "POST",
        "/v1/wallets/INR/deposits",
        201,
        body={"amount": DEPOSIT, "bank": "hdfc"},
        show=("id", "status", "payment_url"),
        authorization=asha["bearer"],
        idempotency_key=f"deposit-{secrets.token_hex(8)}",
    )
    bank = story.step(
        "She approves on the bank's page; the bank tells us three times",
        "POST",
        intent["payment_url"],
        200,
        body={"action": "approve", "times": 3},
        show=("deliveries",),
    )
    said = sorted(delivery["answer"]["status"] for delivery in bank["deliveries"])
    expect(said == ["duplicate", "duplicate", "processed"], "one processed, two duplicates", said)
    wallet = balance(story, asha)
    expect(wallet["available"] == DEPOSIT, f"credited once: {DEPOSIT}", wallet["available"])
    return str(intent["id"])


def send_money(story: Story, asha: Mapping[str, Any], ravi: Mapping[str, Any]) -> None:
    """Part of it goes to @ravi, once, although it is asked for twice."""
    payment = {"to": f"@{ravi['handle']}", "amount": PAYMENT, "currency": "INR", "note": "Lunch"}
    details = {
        "body": payment,
        "show": ("id", "status", "amount", "balance_after"),
        "authorization": asha["bearer"],
        "idempotency_key": f"payment-{secrets.token_hex(8)}",
    }
    first = story.api("Asha pays Ravi", "POST", "/v1/transfers", 201, **details)
    again = story.api("The same key again", "POST", "/v1/transfers", 201, **details)
    expect(again["replayed"] and again["id"] == first["id"], "the same transaction, replayed", again["id"])
    for person, amount in ((asha, DEPOSIT - PAYMENT), (ravi, PAYMENT)):
        wallet = balance(story, person)
        expect(wallet["total"] == amount, f"@{person['handle']} has {amount}", wallet["total"])
        page = story.api(
            f"@{person['handle']}'s history",
            "GET",
            f"/v1/wallets/INR/transactions?min_version={wallet['version']}",
            200,
            authorization=person["bearer"],
        )
        lines = [(line["kind"], line["direction"], line["status"], line["amount"]) for line in page["data"]]
        print("  " + "\n  ".join(" ".join(map(str, line)) for line in lines))
        expect(lines[0][3] == PAYMENT, "the payment is its newest line", lines[0])


def hold_and_give_back(story: Story, asha: Mapping[str, Any], ravi: Mapping[str, Any]) -> None:
    """Asha holds an amount for Ravi, who captures half of it and gives that back."""
    hold = move(
        story,
        "Asha holds an amount for Ravi",
        "/v1/transfers",
        asha,
        {"to": f"@{ravi['handle']}", "amount": PAYMENT, "currency": "INR", "capture": "manual", "expires_in": 3600},
    )
    wallet = balance(story, asha)
    expect(wallet["locked"] == PAYMENT, f"{PAYMENT} of hers is locked", wallet["locked"])
    path = f"/v1/transfers/{hold['id']}"
    captured = move(story, "Ravi captures half of it", f"{path}/capture", ravi, {"amount": PAYMENT // 2}, 200)
    expect(captured["captured_amount"] == PAYMENT // 2, "half was captured", captured["captured_amount"])
    late = story.api(
        "He cannot void what he has captured",
        "POST",
        f"{path}/void",
        409,
        body={},
        show=("code", "detail"),
        authorization=ravi["bearer"],
        idempotency_key=f"void-{secrets.token_hex(8)}",
    )
    expect(late["code"] == "state_conflict", "a hold ends once", late["code"])
    refund = move(story, "He gives it back", f"{path}/refunds", ravi, {"note": "Too much"})
    expect(refund["refund_of"] == hold["id"], "the refund names the payment", refund["refund_of"])
    wallet = balance(story, asha)
    expect((wallet["locked"], wallet["total"]) == (0, DEPOSIT - PAYMENT), "she has it all again", wallet["total"])


def pay_out(story: Story, asha: Mapping[str, Any]) -> None:
    """Two withdrawals: the bank pays one and declines the other."""
    for action, status in (("approve", "Success"), ("decline", "Failure")):
        order = {"amount": PAYOUT, "bank": "hdfc", "account": "00123456789"}
        opened = move(story, "Asha withdraws to her account", "/v1/wallets/INR/withdrawals", asha, order)
        story.step(f"Her bank: {action}", "POST", opened["payment_url"], 200, body={"action": action})
        ended = story.api(
            "The withdrawal now",
            "GET",
            f"/v1/transactions/{opened['id']}",
            200,
            show=("status", "failure", "balance_after"),
            authorization=asha["bearer"],
        )
        expect(ended["status"] == status, status, ended["status"])


def move(
    story: Story, title: str, path: str, person: Mapping[str, Any], body: Mapping[str, Any], status: int = 201
) -> dict[str, Any]:
    """A POST that moves money, under a key of its own. Returns the transaction."""
    moved: dict[str, Any] = story.api(
        title,
        "POST",
        path,
        status,
        body=body,
        show=("id", "kind", "status", "amount", "captured_amount", "balance_after"),
        authorization=person["bearer"],
        idempotency_key=f"move-{secrets.token_hex(8)}",
    )
    return moved


def refuse(story: Story, asha: Mapping[str, Any], ravi: Mapping[str, Any], deposit: str) -> None:
    """What a thief would try."""
    event = {
        "type": "deposit.succeeded",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"reference": deposit, "bank_reference": "forged", "amount": DEPOSIT, "currency": "INR"},
    }
    show = ("code", "detail")
    story.api("A webhook that no bank signed", "POST", "/v1/webhooks/bank/hdfc", 401, body=event, show=show)
    story.api(
        "A negative amount",
        "POST",
        "/v1/transfers",
        422,
        body={"to": f"@{asha['handle']}", "amount": -PAYMENT, "currency": "INR"},
        show=(*show, "errors"),
        authorization=ravi["bearer"],
        idempotency_key=f"payment-{secrets.token_hex(8)}",
    )
    story.api(
        "Ravi asks for Asha's deposit",
        "GET",
        f"/v1/transactions/{deposit}",
        404,
        show=show,
        authorization=ravi["bearer"],
    )
    wallet = balance(story, asha)
    expect(wallet["total"] == DEPOSIT - PAYMENT - PAYOUT, "nothing has changed", wallet["total"])


def forget_and_reset(story: Story, asha: Mapping[str, Any]) -> None:
    """A new password by mail; whatever was signed in before is not any more."""
    seen = story.api("Asha looks where she is signed in", "GET", "/v1/auth/sessions", 200, authorization=asha["bearer"])
    expect(len(seen["data"]) == 2, "two sessions, of her sign-up and of her sign-in", len(seen["data"]))
    email = {"email": asha["email"]}
    story.api("She has forgotten her password", "POST", "/v1/auth/password/forgot", 202, body=email, show=("message",))
    code = story.newest_code(asha["email"])
    reset = {**email, "code": code, "new_password": secrets.token_urlsafe(12)}
    story.api("She sets a new one with the code of the mail", "POST", "/v1/auth/password/reset", 204, body=reset)
    ended = story.api(
        "Her old session is over", "GET", "/v1/wallets/INR", 401, authorization=asha["bearer"], show=("code",)
    )
    expect(ended["code"] == "session_ended", "session_ended", ended["code"])


def come_by_google(story: Story) -> None:
    """The whole round, as a browser makes it."""
    if not is_local(story.endpoints.provider):
        print(f"\nSigning in by {story.endpoints.provider} takes a browser: open {story.endpoints.api}/v1/auth/google")
        return
    name = f"mina-{secrets.token_hex(4)}"
    claims = {"email": f"{name}@example.com", "email_verified": True, "name": "Mina Rao"}
    story.step("The provider knows somebody", "PUT", f"{story.endpoints.provider}/users/{name}", 204, body=claims)
    provider = story.follow("Mina goes to the provider", "GET", f"{story.endpoints.api}/v1/auth/google")
    back = story.follow("She signs in there", "POST", provider, form={"sub": name})
    front_end = story.follow("She comes back, and is sent to the front end", "GET", back)
    code = httpx.URL(front_end).params.get("code", "")
    tokens = story.api("Its code gives tokens", "POST", "/v1/auth/google/token", 200, body={"code": code})
    mina = {"authorization": f"Bearer {tokens['access_token']}"}
    profile = story.api("Mina's profile", "GET", "/v1/me", 200, show=("name", "handle", "email_verified"), **mina)
    expect(profile["email"] == claims["email"], "the verified address of the provider", profile["email"])


def balance(story: Story, person: Mapping[str, Any]) -> Any:
    """The person's INR wallet."""
    return story.api(
        f"@{person['handle']}'s balance",
        "GET",
        "/v1/wallets/INR",
        200,
        show=("available", "locked", "total", "version"),
        authorization=person["bearer"],
    )


def _shown(body: object) -> object:
    if isinstance(body, dict):
        return {name: "***" if name.endswith("password") else value for name, value in body.items()}
    return body


def main(arguments: list[str]) -> int:
    """Tell the story. Returns 0 when everything went as it must, else 1."""
    parser = argparse.ArgumentParser(prog="./okane demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the state folder of the running platform")
    try:
        tell(Story(parser.parse_args(arguments).data))
    except (StateError, httpx.ConnectError) as error:
        print(f"okane: {error}; start a platform with ./okane up in another terminal", file=sys.stderr)
        return 1
    except (DeviationError, httpx.HTTPError) as error:
        print(f"\nDeviation: {error}")
        return 1
    print("\nEverything went as it must.")
    return 0
