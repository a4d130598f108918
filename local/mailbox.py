"""The mailbox: takes the mails that the functions send through SES and shows them instead of delivering them.

POST /v2/email/outbound-emails    SES version 2, simple content: what boto3's sesv2 send_email sends
GET  /messages?to=<e-mail>        {"data": [{"to", "subject", "text", "sent_at"}]}, newest first
GET  /                            the same as a page
GET  /signed-in?code=|error=      where a front end would be: what came of signing in by a provider
"""

import json
import shlex
import uuid
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from urllib.parse import parse_qs

from local.http import Request, Response
from local.page import page

KEPT = 1000  # mails; the oldest go first
SHOWN = 100  # of them on the page
MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail to one address; sent_at is RFC 3339 in UTC."""

    to: str
    subject: str
    text: str
    sent_at: str


class RefusedError(Exception):
    """SES would refuse this mail; the text says why."""


class Mailbox:
    """The mails that have come in, newest first, in memory only."""

    def __init__(self, kept: int = KEPT) -> None:
        self._mails: deque[Mail] = deque(maxlen=kept)

    async def handle(self, request: Request) -> Response:
        """Answers one request of a mail's sender or its reader."""
        match request.method, request.path:
            case "POST", "/v2/email/outbound-emails":
                return self._take(request)
            case (("GET" | "HEAD"), "/messages"):
                to = parse_qs(request.query).get("to", [""])[0]
                # A plus in an address is often sent as it is, and then reads as a space.
                found = [asdict(mail) for mail in self._mails if not to or _same(mail.to, to.replace(" ", "+"))]
                return Response.json(200, {"data": found})
            case (("GET" | "HEAD"), "/signed-in"):
                said = parse_qs(request.query)
                return page(200, "Signed in" if "code" in said else "Not signed in", _arrival(said))
            case (("GET" | "HEAD"), "/"):
                return page(200, "Mailbox", _listing(list(self._mails)[:SHOWN]))
            case _:
                return Response.json(404, {"message": "Not Found"})

    def _take(self, request: Request) -> Response:
        try:
            mails = _read(request.body)
        except RefusedError as refused:
            answer = Response.json(400, {"message": str(refused)})
            answer.headers.append(("x-amzn-ErrorType", "BadRequestException"))
            return answer
        self._mails.extendleft(mails)
        return Response.json(200, {"MessageId": str(uuid.uuid4())})


def _same(address: str, wanted: str) -> bool:
    return address.casefold() == wanted.casefold()


def _read(body: bytes) -> list[Mail]:
    """The mails of one SES request, one for each address. RefusedError if SES would not take it."""
    try:
        request = json.loads(body)
        addresses = request["Destination"]["ToAddresses"]
        simple = request["Content"]["Simple"]
        subject, text = simple["Subject"]["Data"], simple["Body"]["Text"]["Data"]
        sender = request["FromEmailAddress"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RefusedError("this mailbox takes simple content with a sender, a subject and a text") from None
    if not isinstance(addresses, list) or not addresses or len(addresses) > 50:
        raise RefusedError("1 to 50 addresses are needed")
    if not all(isinstance(value, str) for value in (subject, text, sender, *addresses)):
        raise RefusedError("addresses, subject and text must be strings")
    if not all("@" in address and address.isprintable() for address in (sender, *addresses)):
        raise RefusedError("Missing final '@domain'")
    if not subject.isprintable():
        raise RefusedError("a subject is one line")
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [Mail(address, subject, text, now) for address in addresses]


def _arrival(said: dict[str, list[str]]) -> str:
    """How a code is exchanged, or the error."""
    if "code" not in said:
        return f"<p><code>{escape(said.get('error', ['nothing was said'])[0])}</code></p>"
    body = shlex.quote(json.dumps({"code": said["code"][0]}))
    line = f"curl $API/v1/auth/google/token -H 'Content-Type: application/json' -d {body}"
    return (
        "<p>This code gives tokens, once, within two minutes. API is the address that "
        f"<code>./okane up</code> shows. If the round began with a <code>code_challenge</code>, the body needs its "
        f"<code>code_verifier</code> too, and one try without it spends the code:</p><pre><code>{escape(line)}</code></pre>"
    )


def _listing(mails: list[Mail]) -> str:
    if not mails:
        return "<p>No mail yet. Register somebody, and their code arrives here.</p>"
    return "".join(
        f"<article><p><strong>{escape(mail.subject)}</strong><br>"
        f'<span class="note">to {escape(mail.to)} at {escape(mail.sent_at)}</span></p>'
        f"<pre>{escape(mail.text)}</pre></article>"
        for mail in mails
    )
