"""HTTP in and out: what every route does before and after its own work.

Before: refuse bodies that are too large or not JSON, find out who asks. After: problems for refusals, the headers that every
reply has, one log line. In between, Powertools routes and checks the request against the handler's types.
"""

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, cast

from annotated_types import Ge, Le
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.event_handler.openapi.params import Body, Header, Path, Query
from aws_lambda_powertools.shared.cookies import Cookie, SameSite
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from okane_common import aws, database, settings, traffic
from okane_common.caller import Caller, Visitor, visitor
from okane_common.errors import CODES, Refusal, refuse
from okane_common.models import Problem, Transaction
from okane_common.observability import logger

__all__ = ["Body", "Header", "Path", "Query", "Response"]

MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 32
BODY_METHODS = ("POST", "PUT", "PATCH")
KEYED = ("idempotency_key_missing", "idempotency_key_invalid", "idempotency_key_reused")  # of routes with a key
RETRY_SECONDS = 1
MAX_SECONDS = 10  # of a request
TOO_LATE = {
    "expired": "The hold has expired: its amount is with its sender again.",
    "ended": "The transfer is not in a state that allows this.",
}
DOCS_URL = settings.text("DOCS_URL")

Event = dict[str, Any]
Handler = Callable[..., Response[Any]]
Route = Callable[[Handler], Handler]


def _whole_number(text: object) -> object:
    if isinstance(text, str) and re.fullmatch("[0-9]{1,19}", text):
        return int(text)
    raise ValueError("a whole number in digits is expected")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)  # Postgres takes no offset of sixteen hours, and equal times are to look equal
    except OverflowError:
        raise ValueError("a time between the years 1 and 9999 is expected") from None


def _rfc_3339(text: object) -> object:
    if isinstance(text, str) and re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}T", text):
        return text
    raise ValueError("a time such as 2026-11-23T10:00:00Z is expected")  # pydantic would also take Unix time


def _plain_uuid(text: object) -> object:
    if isinstance(text, str) and re.fullmatch("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", text):
        return text
    raise ValueError("a UUID is expected")


IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern="^[A-Za-z0-9_-]{8,255}$",
        description="Names the transaction, for ever",
    ),
]
MinVersion = Annotated[
    int,
    Ge(0),
    Le(2**53 - 1),
    BeforeValidator(_whole_number),
    Query(description="The answer is never older than this version of the wallet"),
]
AtVersion = Annotated[
    Annotated[int, Ge(0), Le(2**53 - 1)] | None,
    BeforeValidator(_whole_number),
    Query(description="The wallet as it was at this version; not together with min_version"),
]
Limit = Annotated[int, Ge(1), Le(100), BeforeValidator(_whole_number), Query(description="Lines on a page")]
Cursor = Annotated[str | None, Query(description="next_cursor of the page, or part, before")]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]
Id = Annotated[uuid.UUID, BeforeValidator(_plain_uuid), Path(description="The thing's id")]
CurrencyInPath = Annotated[str, Path(pattern="^[A-Z]{3}$", description="ISO 4217 code")]


class Api:
    """One function's routes, and the way into them.

    guard: what a request must pass before its body is parsed; it raises a Refusal, or leaves in the event what it found
    out. bearer: whether the guard asks for an access token. public: the route keys (`"POST /v1/auth/login"`) without guard.
    """

    def __init__(
        self, guard: Callable[[Event], None], *, bearer: bool = True, public: frozenset[str] = frozenset()
    ) -> None:
        self._guard = guard
        self._bearer = bearer
        self._public = public
        self._started = 0.0
        self._code: str | None = None  # of the refusal, if the request is refused
        self._resolver = APIGatewayHttpResolver(enable_validation=True, json_body_deserializer=load_json)
        for error, answer in (
            (Refusal, self._refused),
            (RequestValidationError, self._invalid),
            (NotFoundError, self._nowhere),
            (database.Unavailable, self._unavailable),
            (aws.AwsError, self._unavailable),
        ):
            self._resolver.exception_handler(error)(answer)
        self.get_openapi_schema = self._resolver.get_openapi_schema

    def route(
        self,
        method: str,
        path: str,
        summary: str,
        *codes: str,
        status: int = 200,
        also: int = 0,
        content: Mapping[str, Any] | None = None,
    ) -> Route:
        """Decorates the handler of one route. codes: the problems it can answer with besides those of every route.
        also: a second status that is a success, with the same body. content: what a success carries, by media type as
        OpenAPI says it, where that is not only JSON of the handler's return type.

        Documents both; the request is checked against the handler's annotations, the answer against its return type.
        """
        private = self._bearer and f"{method} {path}" not in self._public
        always = ["validation_failed", "unavailable"]
        if private:
            always += ["token_missing", "token_invalid", "token_expired", "session_ended", "rate_limited"]
        if "{" in path:
            always += ["not_found"]
        if method in BODY_METHODS:
            always += ["json_invalid", "body_too_large", "media_type_unsupported"]
        decorate: Route = self._resolver.route(
            re.sub(r"{(\w+)}", r"<\1>", path),
            method,
            summary=summary,
            responses=_documented([status, also] if also else [status], (*codes, *always), content),
            operation_id=re.sub(r"\W+", "_", f"{method} {path}").strip("_").lower(),
            security=[{"bearer": []}] if private else [],
        )
        return decorate

    def handle(self, event: Event, context: Any) -> dict[str, Any]:
        """Answer one HTTP API event (payload format 2.0)."""
        started = self._started = time.monotonic()
        self._code = None
        logger.set_correlation_id(event["requestContext"]["requestId"])
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value  # API Gateway's answer, should a bug get out of here
        try:
            answer = self._answer(event, context)
            status = answer["statusCode"]
            return answer
        finally:
            logger.info(
                "request",
                extra={
                    "route": event["routeKey"],
                    "status": status,
                    **({"code": self._code} if self._code else {}),
                    "ms": round((time.monotonic() - started) * 1000, 1),
                },
            )

    def _answer(self, event: Event, context: Any) -> dict[str, Any]:
        try:
            self._event = event
            take_body(event)
            if event["routeKey"] not in self._public:
                self._guard(event)
                if self._bearer:
                    traffic.admit(self.caller.person_id)
            answer = self._resolver.resolve(event, context)
        except Refusal as refusal:  # before routing; those of a handler have become answers already
            answer = _plain(self._refused(refusal))
        answer["headers"] = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": event["requestContext"]["requestId"],
            **answer.get("headers", {}),
        }
        return answer

    @property
    def caller(self) -> Caller:
        """Who sent the request that is being handled: a verified token's person and session."""
        caller: Caller = self._event["caller"]
        return caller

    @property
    def visitor(self) -> Visitor:
        """Who sent it, as far as anybody can be told before they have proved who they are."""
        return visitor(self._event)

    def tell(self, send: Callable[..., None], *details: str) -> None:
        """Send a mail that nobody waits for: one that fails, or for which the request has no time left, is only logged."""
        said = "no time left"
        if time.monotonic() - self._started < MAX_SECONDS - aws.CALL_SECONDS:
            said = ""
            try:
                send(*details)
            except aws.AwsError as error:
                said = str(error)
        if said:
            logger.error("mail not sent", extra={"mail": send.__name__, "said": said})

    @property
    def event(self) -> Event:
        """The request that is being handled, as API Gateway sent it; the body is text."""
        return self._event

    def _refused(self, refusal: Refusal) -> Response[str]:
        code = CODES[refusal.code]
        self._code = refusal.code
        problem = {
            "type": f"{DOCS_URL}#{refusal.code}",
            "title": code.title,
            "status": code.status,
            "detail": refusal.detail,
            "code": refusal.code,
            "request_id": self._event["requestContext"]["requestId"],
            "retryable": code.retryable,
            **({"errors": refusal.errors} if refusal.errors else {}),
            **({"transaction_id": refusal.transaction_id} if refusal.transaction_id else {}),
            **({"limit": refusal.limit} if refusal.limit else {}),
        }
        headers: dict[str, str | list[str]] = {}
        if refusal.retry_after is not None:
            headers["Retry-After"] = str(refusal.retry_after)
        if refusal.replayed:
            headers["Idempotent-Replayed"] = "true"
        if code.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(code.status, "application/problem+json", json.dumps(problem), headers)

    def _invalid(self, error: RequestValidationError) -> Response[str]:
        faults = error.errors()
        for fault in faults:
            match fault["loc"][0], fault["type"]:
                case "header", "missing":
                    return self._refused(
                        Refusal("idempotency_key_missing", "Send an Idempotency-Key of your own choice.")
                    )
                case "header", _:
                    return self._refused(
                        Refusal("idempotency_key_invalid", "8 to 255 characters of A-Z, a-z, 0-9, _ and -.")
                    )
                case "path", _:
                    return self._refused(refuse("not_found"))
                case "response", _:
                    raise error  # ours, not theirs: an answer that breaks the contract is a bug
        return self._refused(
            Refusal(
                "validation_failed",
                "The request has fields that do not fit; errors tells which.",
                errors=[
                    {"pointer": _pointer(fault["loc"]), "code": fault["type"], "detail": fault["msg"]}
                    for fault in faults
                ],
            )
        )

    def _nowhere(self, _: NotFoundError) -> Response[str]:
        return self._refused(refuse("not_found"))

    def _unavailable(self, error: Exception) -> Response[str]:
        logger.error("unavailable", extra={"reason": type(error).__name__, "said": str(error)})
        return self._refused(
            Refusal(
                "unavailable",
                "Nothing is known to have happened. Retry with the same key.",
                retry_after=RETRY_SECONDS,
            )
        )


def take_body(event: Event) -> None:
    """Leave the body of the event as text, at most MAX_BODY_BYTES of it; None for none, and where none is read.

    Raises Refusal: body_too_large, media_type_unsupported, json_invalid (not UTF-8).
    """
    body = event.get("body")
    if not body or event["requestContext"]["http"]["method"] not in BODY_METHODS:
        event["body"] = None
        event["headers"].pop("content-type", None)  # of nothing
        return
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_BODY_BYTES:
        raise Refusal("body_too_large", f"A body has at most {MAX_BODY_BYTES} bytes.")
    media_type = event["headers"].get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refusal("media_type_unsupported", "Send application/json.")
    try:
        event["body"] = raw.decode()
    except UnicodeDecodeError:
        raise Refusal("json_invalid", "The body is not UTF-8.") from None
    event["isBase64Encoded"] = False
    event["headers"]["content-type"] = "application/json"


def load_json(text: str) -> Any:
    """Parse JSON as RFC 8259 means it to be sent: no duplicate keys, no NaN, at most MAX_DEPTH levels.

    Raises Refusal: json_invalid; validation_failed for JSON that is no object.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # ValueError also for a number of thousands of digits
        raise Refusal("json_invalid", "The body cannot be read as JSON.") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Refusal("json_invalid", f"The body has more than {MAX_DEPTH} levels.")
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    # Powertools would take null for no body at all, and of a list its first member.
    if not isinstance(value, dict):
        fault = {"pointer": "", "code": "model_attributes_type", "detail": "The body must be an object."}
        raise Refusal("validation_failed", "The body must be an object.", errors=[fault])
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _pointer(location: tuple[str | int, ...]) -> str:
    if location[0] == "query":
        return f"?{location[1]}"
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location[1:])


def _plain(response: Response[str]) -> dict[str, Any]:
    headers = {**response.headers, "Content-Type": "application/problem+json"}
    return {
        "statusCode": response.status_code,
        "headers": headers,
        "body": response.body,
        "isBase64Encoded": False,
    }


def _documented(statuses: list[int], codes: tuple[str, ...], content: Mapping[str, Any] | None) -> dict[int, Any]:
    """The OpenAPI responses of a route: its successes, and its problems by status with their codes."""
    carried = {} if content is None else {"content": dict(content)}
    described: dict[int, Any] = {status: {"description": HTTPStatus(status).phrase, **carried} for status in statuses}
    for empty in (HTTPStatus.NO_CONTENT, HTTPStatus.FOUND):
        if empty in described:
            described[empty]["content"] = {}
    for code in sorted(set(codes)):
        known = described.setdefault(
            CODES[code].status,
            {"description": "", "content": {"application/problem+json": {"model": Problem}}},
        )
        known["description"] = ", ".join(filter(None, (known["description"], code)))
    return described


def answer[Shape](
    shape: type[Shape], content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[Shape]:
    """A JSON answer. `content` is plain data; it is checked against the shape, field by field, before it is sent."""
    del shape  # it stands for the handler's return type, by which Powertools checks
    return Response(status, "application/json", cast("Shape", content), dict(headers or {}))


def answer_text(media_type: str, text: str, *, headers: Mapping[str, str]) -> Response[Any]:
    """A 200 answer that is not JSON, in UTF-8. The handler's return type must allow for a str."""
    return Response(200, f"{media_type}; charset=utf-8", text, dict(headers))


def redirect(url: str, cookie: tuple[str, str], seconds: int) -> Response[None]:
    """A 302 that leaves a cookie (name, value) in the browser for so many seconds; no value takes it away. The cookie comes back
    to this host only, on a way that began elsewhere too, and no script can read it.
    """
    name, value = cookie
    kept = Cookie(
        name,
        value,
        path="/",
        secure=name.startswith("__Host-"),
        http_only=True,
        max_age=seconds if value else 0,
        same_site=SameSite.LAX_MODE,
    )
    return Response(302, headers={"Location": url}, cookies=[kept])


def moved(result: Mapping[str, Any], *, status: int = 201) -> Response[Transaction]:
    """The answer to a POST that moved money, from what the ledger returned.

    Raises Refusal: with the transaction's id when it was refused at once and recorded, now or by an earlier request;
    state_conflict when it had come to another end. A transaction that failed later, such as a hold that was voided, is an
    answer and no refusal.
    """
    if result["outcome"] in TOO_LATE:
        raise Refusal("state_conflict", TOO_LATE[result["outcome"]])
    transaction, replayed = result["transaction"], result["outcome"] == "replayed"
    failure = transaction["failure"]
    if failure and failure["code"] in CODES:
        raise Refusal(
            failure["code"],
            failure["message"],
            transaction_id=transaction["id"],
            replayed=replayed,
            limit=result.get("limit"),
        )
    return answer(Transaction, transaction, status=status, headers=replay_header(replayed))


def replay_header(replayed: bool) -> dict[str, str]:
    """Says so when an answer repeats what an earlier request did."""
    return {"Idempotent-Replayed": "true"} if replayed else {}
