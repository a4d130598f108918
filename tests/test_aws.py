"""Settings, the references in them, and the two other AWS services: real boto3 against a stand-in for the services."""

import importlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import boto3
import pytest
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ses.models import ses_backends

from local import imports
from local.template import load
from okane_common import aws, settings
from okane_common.settings import Secret, SettingError
from tests.support.fresh import imported
from tests.support.platform import ROOT

VALUE = "postgresql://okane_app:tells-nobody@db.example.com/okane"
ARN = "arn:aws:secretsmanager:ap-south-1:123456789012:secret:okane/database-AbCdEf"
SERVICES = ("SECRETS_MANAGER", "SSM", "LAMBDA", "SESV2")


class Request(NamedTuple):
    """What a service was asked."""

    path: str
    headers: dict[str, str]
    content: Any


class Services(ThreadingHTTPServer):
    """All AWS services on one port: they answer what they are told to, in order, the last for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[tuple[int, Any]] = [(200, {})]
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Services
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.path, headers, json.loads(body)))
        answers = self.server.answers
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with Services() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        for service in SERVICES:
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"http://127.0.0.1:{running.server_address[1]}")
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "ap-south-1",
            "AWS_DEFAULT_REGION": "ap-south-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        aws._client.cache_clear()
        yield running
        aws._client.cache_clear()
        running.shutdown()


def test_a_plain_setting_is_what_it_is(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", VALUE)
    assert settings.text("DATABASE_URL") == VALUE
    assert settings.text("LOG_LEVEL_OF_NOBODY", "INFO") == "INFO"
    assert not services.requests


def test_a_reference_to_a_secret_is_fetched(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"secretsmanager:{ARN}")
    services.answers = [(200, {"ARN": ARN, "Name": "okane/database", "SecretString": VALUE})]
    assert settings.secret("DATABASE_URL").reveal() == VALUE
    [request] = services.requests
    assert request.headers["x-amz-target"] == "secretsmanager.GetSecretValue"
    assert request.content == {"SecretId": ARN}
    assert "/ap-south-1/secretsmanager/aws4_request" in request.headers["authorization"]


def test_a_reference_to_a_parameter_is_fetched(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_PUBLIC_KEYS", "ssm:/okane/token-public-keys")
    services.answers = [(200, {"Parameter": {"Name": "x", "Type": "String", "Value": '{"keys": []}'}})]
    assert settings.json_object("TOKEN_PUBLIC_KEYS") == {"keys": []}
    [request] = services.requests
    assert request.headers["x-amz-target"] == "AmazonSSM.GetParameter"
    assert request.content == {"Name": "/okane/token-public-keys", "WithDecryption": True}


@pytest.mark.parametrize("status", [400, 403])
def test_a_secret_that_is_refused_is_named_and_not_shown(
    services: Services, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"secretsmanager:{ARN}")
    services.answers = [(status, {"__type": "AccessDeniedException", "Message": f"no {VALUE} for you"})]
    with pytest.raises(
        SettingError, match=r"^DATABASE_URL cannot be fetched: secretsmanager get_secret_value"
    ) as error:
        settings.text("DATABASE_URL")
    assert VALUE not in str(error.value)
    assert ARN not in str(error.value)
    assert len(services.requests) == 1


def test_a_service_that_fails_is_asked_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"secretsmanager:{ARN}")
    services.answers = [(500, {}), (200, {"SecretString": VALUE})]
    with pytest.raises(SettingError):
        settings.text("DATABASE_URL")
    assert len(services.requests) == 1


def test_a_service_that_is_not_there_is_an_error(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    services.shutdown()
    services.server_close()
    with pytest.raises(aws.AwsError, match=r"^lambda invoke failed: EndpointConnectionError$"):
        aws.invoke_later("okane-warmer", {})
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    aws._client.cache_clear()
    with pytest.raises(aws.AwsError, match=r"^sesv2 send_email failed: NoRegionError$"):
        aws.send_email("okane@example.com", "asha@example.com", "a", "b")


@pytest.mark.parametrize("empty", [None, ""])
def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch, empty: str | None) -> None:
    if empty is None:
        monkeypatch.delenv("OKANE_SECRET", raising=False)
    else:
        monkeypatch.setenv("OKANE_SECRET", empty)
    for read in (settings.text, settings.secret, settings.json_object, settings.words):
        with pytest.raises(SettingError, match=r"^OKANE_SECRET is not set$"):
            read("OKANE_SECRET")


@pytest.mark.parametrize("value", ["tells-nobody", '["tells-nobody"]', '"tells-nobody"', "{'tells-nobody': 1}"])
def test_a_malformed_setting_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BANKS", value)
    with pytest.raises(SettingError, match=r"^BANKS is not") as error:
        settings.json_object("BANKS")
    shown = error.value.__cause__ or (None if error.value.__suppress_context__ else error.value.__context__)
    assert "tells-nobody" not in f"{error.value} {shown}"


def test_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENCIES", " INR, USD ,,JPY")
    assert settings.words("CURRENCIES") == ("INR", "USD", "JPY")
    monkeypatch.setenv("CURRENCIES", " , ")
    with pytest.raises(SettingError, match=r"^CURRENCIES is empty$"):
        settings.words("CURRENCIES")


def test_a_secret_masks_itself() -> None:
    secret = Secret(VALUE)
    shown = [repr(secret), str(secret), f"{secret} {secret!r}", "%s" % secret, repr([secret]), repr({"a": secret})]  # noqa: UP031
    assert not any("tells-nobody" in text for text in shown)
    assert secret.reveal() == VALUE
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "SettingError: OKANE_SECRET is not set"),
        ("tells-nobody!", "SettingError: OKANE_SECRET is not base64"),
        ("dGVsbHMtbm9ib2R5", "SettingError: OKANE_SECRET is shorter than 32 bytes"),
    ],
)
def test_a_function_whose_configuration_is_wrong_does_not_start(value: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import okane_common.seals"],
        env={"PYTHONPATH": str(ROOT / "layers" / "okane_common"), "OKANE_SECRET": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(says)
    assert not value or value not in done.stderr


def test_a_function_is_invoked_later(services: Services) -> None:
    services.answers = [(202, {})]
    aws.invoke_later("okane-warmer", {"person_id": "1"})
    [request] = services.requests
    assert request.path == "/2015-03-31/functions/okane-warmer/invocations"
    assert request.headers["x-amz-invocation-type"] == "Event"
    assert request.content == {"person_id": "1"}


def test_a_mail_is_sent(services: Services) -> None:
    aws.send_email("okane@example.com", "asha@example.com", "Your code", "It is 123456.\n")
    [request] = services.requests
    assert request.path == "/v2/email/outbound-emails"
    assert request.content == {
        "FromEmailAddress": "okane@example.com",
        "Destination": {"ToAddresses": ["asha@example.com"]},
        "Content": {"Simple": {"Subject": {"Data": "Your code"}, "Body": {"Text": {"Data": "It is 123456.\n"}}}},
    }


def test_a_mail_that_is_refused_tells_no_address(services: Services) -> None:
    services.answers = [(400, {"message": "Email address is not verified: asha@example.com"})]
    with pytest.raises(aws.AwsError, match=r"^sesv2 send_email failed: ") as error:
        aws.send_email("okane@example.com", "asha@example.com", "Your code", "It is 123456.\n")
    assert "asha" not in str(error.value)
    assert "123456" not in str(error.value)


# The mails, through boto3.

MAILS: dict[str, tuple[str, ...]] = {
    "send_code": ("123456", "10"),
    "send_reset_code": ("123456", "10"),
    "send_already_registered": (),
    "send_no_account": (),
    "send_password_changed": (),
    "send_session_reused": (),
    "send_identity_linked": (),
}
TO = "asha@example.com"


def test_the_mails_are_these() -> None:
    text = (ROOT / "layers" / "okane_common" / "okane_common" / "mail.py").read_text(encoding="utf-8")
    assert set(re.findall(r"^def (\w+)", text, re.M)) == set(MAILS)


def test_mails_come_from_the_verified_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """SES as moto has it, which refuses a sender that is not verified."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    with mock_aws(), imported("mail", {"MAIL_FROM": "okane@example.com"}, monkeypatch) as mail:
        with pytest.raises(mail.aws.AwsError, match=r"^sesv2 send_email failed: MessageRejected$"):
            mail.send_code(TO, "123456", 10)
        boto3.client("ses").verify_email_identity(EmailAddress="okane@example.com")
        for name, details in MAILS.items():
            getattr(mail, name)(TO, *details)
        sent = ses_backends[DEFAULT_ACCOUNT_ID]["ap-south-1"].sent_messages
        assert [(each.source, each.destinations) for each in sent] == [
            ("okane@example.com", {"ToAddresses": [TO]}) for _ in MAILS
        ]
        assert len({each.subject for each in sent}) == len(MAILS)
        for each, details in zip(sent, MAILS.values(), strict=True):
            assert re.findall(r"\d{4,}", each.subject + each.body) == list(details[:1]), (
                "nothing else looks like a code"
            )
            assert ("valid for 10 minutes" in each.body) == bool(details)
            assert "http" not in each.body, "no mail has a link: a link in one is not ours"
            assert "OKANE" in each.subject


@pytest.fixture
def routes(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The layer's api, with one route that must mail and one that only tells."""
    variables = load(ROOT / "template.yaml").functions["AuthFunction"].environment(imports.start_values())
    with imported("api", variables, monkeypatch) as api:
        mail = importlib.import_module("okane_common.mail")
        app = api.Api(lambda _: None, public=frozenset({"POST /v1/code", "POST /v1/notice"}))

        def code() -> Any:
            mail.send_code(TO, "123456", 10)
            return api.Response(204)

        def notice() -> Any:
            app.tell(mail.send_password_changed, TO)
            return api.Response(204)

        app.route("POST", "/v1/code", "Needs its mail", status=204)(code)
        app.route("POST", "/v1/notice", "Does not", status=204)(notice)
        yield app


def ask(app: Any, path: str) -> dict[str, Any]:
    """The answer to an HTTP API event without a body."""
    http = {"method": "POST", "path": path, "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1", "userAgent": ""}
    context = {"http": http, "requestId": "r-1", "stage": "$default", "routeKey": f"POST {path}"}
    event = {"version": "2.0", "routeKey": f"POST {path}", "rawPath": path, "rawQueryString": "", "headers": {}}
    answer: dict[str, Any] = app.handle({**event, "requestContext": context, "isBase64Encoded": False}, None)
    return answer


@pytest.mark.parametrize(
    "said",
    [
        (429, {"__type": "TooManyRequestsException", "message": f"too many to {TO}"}),
        (400, {"__type": "MessageRejected", "message": f"not verified: {TO}"}),
        (500, {"message": TO}),
    ],
)
def test_ses_that_does_not_take_a_mail(
    services: Services, routes: Any, said: tuple[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A code that is not mailed is a 503, once and at once; a notice that is not mailed is a line in the log."""
    services.answers = [said]
    answer = ask(routes, "/v1/code")
    assert (answer["statusCode"], answer["headers"]["Retry-After"]) == (503, "1")
    problem = json.loads(answer["body"])
    assert (problem["code"], problem["retryable"]) == ("unavailable", True)
    assert len(services.requests) == 1
    assert ask(routes, "/v1/notice")["statusCode"] == 204
    assert len(services.requests) == 2
    lines = [vars(record) for record in caplog.records if record.name == "auth"]
    assert [line["msg"] for line in lines] == ["unavailable", "request", "mail not sent", "request"]
    assert lines[2]["mail"] == "send_password_changed"
    assert all(line["said"].startswith("sesv2 send_email failed: ") for line in (lines[0], lines[2]))
    for word in ("asha", "123456"):
        assert word not in str([answer, lines])


def test_mails_that_are_taken(services: Services, routes: Any) -> None:
    for path in ("/v1/code", "/v1/notice"):
        assert ask(routes, path)["statusCode"] == 204
    assert [request.content["Destination"] for request in services.requests] == [{"ToAddresses": [TO]}] * 2
