"""What template.yaml promises: the routes, each function's settings and rights, and no secret anywhere.

Read with a loader of its own (local/template.py is tested elsewhere), so that what is not resolved can be looked at.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import imports
from local.authorizer import AuthorizerError, guard, private_routes
from local.build import DEFAULT_ARCHITECTURE
from local.keys import OVERLAP_SECONDS
from local.template import load

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "template.yaml").read_text(encoding="utf-8")

ROUTES = {
    "AuthFunction": {
        "POST /v1/auth/register",
        "POST /v1/auth/verify",
        "POST /v1/auth/login",
        "POST /v1/auth/refresh",
        "POST /v1/auth/logout",
        "GET /v1/auth/sessions",
        "DELETE /v1/auth/sessions",
        "DELETE /v1/auth/sessions/{id}",
        "PUT /v1/auth/password",
        "POST /v1/auth/password/forgot",
        "POST /v1/auth/password/reset",
        "GET /v1/auth/google",
        "GET /v1/auth/google/callback",
        "POST /v1/auth/google/token",
        "GET /v1/me",
        "PATCH /v1/me",
        "GET /.well-known/jwks.json",
        "GET /.well-known/openid-configuration",
        "GET /v1/health",
        "GET /openapi.json",
    },
    "WalletFunction": {
        "GET /v1/wallets",
        "POST /v1/wallets",
        "GET /v1/wallets/{currency}",
        "GET /v1/wallets/{currency}/transactions",
        "GET /v1/transactions/{id}",
        "GET /v1/wallets/{currency}/statements/{month}",
        "POST /v1/wallets/{currency}/deposits",
        "POST /v1/wallets/{currency}/withdrawals",
        "POST /v1/cache/warm",
    },
    "TransferFunction": {
        "GET /v1/recipients/{handle}",
        "POST /v1/transfers",
        "POST /v1/transfers/batch",
        "GET /v1/transfers/{id}",
        "POST /v1/transfers/{id}/capture",
        "POST /v1/transfers/{id}/void",
        "POST /v1/transfers/{id}/refunds",
    },
    "BankWebhookFunction": {"POST /v1/webhooks/bank/{bank}"},
    "CacheWarmerFunction": set(),
    "BookkeeperFunction": set(),
}
EVERYWHERE = {
    "DATABASE_URL",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "OKANE_SECRET",
    "DEFAULT_CURRENCY",
    "CURRENCIES",
    "DOCS_URL",
    "LOG_LEVEL",
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
}
TOKENS = {"TOKEN_ISSUER", "TOKEN_AUDIENCE", "TOKEN_PUBLIC_KEYS", "TOKEN_KEYS_SECONDS", "REQUESTS_PER_MINUTE"}
PROVIDER = {"FRONT_END_URLS", "OPENID_ISSUER", "OPENID_CLIENT_ID", "OPENID_CLIENT_SECRET"}
SETTINGS = {
    "AuthFunction": EVERYWHERE | TOKENS | PROVIDER | {"TOKEN_SIGNING_KEYS", "MAIL_FROM"},
    "WalletFunction": EVERYWHERE | TOKENS | {"BANKS", "CACHE_WARMER_FUNCTION"},
    "TransferFunction": EVERYWHERE | TOKENS,
    "BankWebhookFunction": EVERYWHERE | {"BANKS", "BANK_SECRETS"},
    "CacheWarmerFunction": EVERYWHERE,
    "BookkeeperFunction": EVERYWHERE,
}
SECRETS = {"DATABASE_URL", "UPSTASH_REDIS_REST_TOKEN", "OKANE_SECRET", "TOKEN_SIGNING_KEYS", "BANK_SECRETS"}


ACCESS_SECONDS = 600  # the life of an access token, as the contract has it


class _Loader(yaml.SafeLoader):
    """YAML in which `!Ref X` is {"Ref": "X"} and `!Sub X` is {"Fn::Sub": "X"}."""


def _tag(loader: Any, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix == "Ref" else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _tag)
TEMPLATE: dict[str, Any] = yaml.load(TEXT, _Loader)
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
GLOBALS: dict[str, Any] = TEMPLATE["Globals"]["Function"]
FUNCTIONS: dict[str, Any] = {
    name: resource["Properties"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::Serverless::Function"
}
every_function = pytest.mark.parametrize("name", sorted(ROUTES))


def variables(name: str) -> dict[str, Any]:
    """All environment variables of a function."""
    return {**GLOBALS["Environment"]["Variables"], **FUNCTIONS[name]["Environment"]["Variables"]}


def statements(name: str) -> list[dict[str, Any]]:
    """The policy statements of a function."""
    return [statement for policy in FUNCTIONS[name]["Policies"] for statement in policy["Statement"]]


def allowed(name: str, action: str) -> list[Any]:
    """The resources on which a function may do something."""
    found: list[Any] = []
    for statement in statements(name):
        if statement["Action"] == action:
            resource = statement["Resource"]
            found += resource if isinstance(resource, list) else [resource]
    return found


def test_functions_are_these_six() -> None:
    assert set(FUNCTIONS) == set(ROUTES)


@every_function
def test_routes_are_those_of_the_contract(name: str) -> None:
    events = [event["Properties"] for event in FUNCTIONS[name]["Events"].values() if event["Type"] == "HttpApi"]
    assert {f"{event['Method']} {event['Path']}" for event in events} == ROUTES[name]
    assert all(event["ApiId"] == {"Ref": "Api"} for event in events)


@every_function
def test_routes_are_those_of_the_code(name: str) -> None:
    tree = ast.parse((ROOT / FUNCTIONS[name]["CodeUri"] / "app.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "app.route":
            method, path = (ast.literal_eval(argument) for argument in node.args[:2])
            found.add(f"{method} {path.translate({ord('<'): '{', ord('>'): '}'})}")
    assert found == ROUTES[name]


@every_function
def test_settings_are_what_the_function_needs(name: str) -> None:
    assert set(variables(name)) == SETTINGS[name]


@every_function
def test_handler_starts_with_just_its_settings(name: str) -> None:
    function = load(ROOT / "template.yaml").functions[name]
    folders = [str(folder) for folder in (*function.layers, function.code)]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path[:0] = sys.argv[1:]; import app", *folders],
        env=function.environment(imports.start_values()) | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_every_setting_that_the_code_reads_is_set_somewhere() -> None:
    asking = {"text", "secret", "json_object", "words"}
    read = set()
    for path in [*ROOT.glob("layers/okane_common/okane_common/*.py"), *ROOT.glob("functions/*/app.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="settings"), attr=attribute),
                    args=[ast.Constant(value=str(name)), *_],
                ) if attribute in asking:
                    read.add(name)
    assert read == set().union(*SETTINGS.values())


@every_function
def test_secrets_are_references(name: str) -> None:
    for setting in SECRETS & set(variables(name)):
        value = variables(name)[setting]
        found = re.fullmatch(r"secretsmanager:\$\{(\w+Arn)\}", value["Fn::Sub"])
        assert found, f"{setting} is {value}"
        assert "Default" not in TEMPLATE["Parameters"][found[1]]


@every_function
def test_a_function_may_read_its_own_secrets_only(name: str) -> None:
    named = {
        variables(name)[setting]["Fn::Sub"].removeprefix("secretsmanager:").strip("${}")
        for setting in SECRETS & set(variables(name))
    }
    always = [one for one in allowed(name, "secretsmanager:GetSecretValue") if "Fn::If" not in one]
    assert {resource["Ref"] for resource in always} == named
    assert bool(allowed(name, "ssm:GetParameter")) == ("TOKEN_PUBLIC_KEYS" in variables(name))


def test_only_auth_reads_the_provider_secret_and_only_with_a_provider() -> None:
    """Without one there is neither a reference to resolve nor a right to resolve it."""
    secret, nothing = {"Ref": "OpenIdClientSecretArn"}, {"Ref": "AWS::NoValue"}
    found = {
        name: [one for one in allowed(name, "secretsmanager:GetSecretValue") if "Fn::If" in one] for name in FUNCTIONS
    }
    assert {name: one for name, one in found.items() if one} == {
        "AuthFunction": [{"Fn::If": ["HasProvider", secret, nothing]}]
    }
    assert TEXT.count("OpenIdClientSecretArn") == 3, "the parameter, the right and the reference"
    reference = variables("AuthFunction")["OPENID_CLIENT_SECRET"]
    assert reference == {"Fn::If": ["HasProvider", {"Fn::Sub": "secretsmanager:${OpenIdClientSecretArn}"}, ""]}
    assert TEMPLATE["Conditions"]["HasProvider"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "OpenIdClientId"}, ""]}]}
    assert TEMPLATE["Parameters"]["OpenIdClientId"]["Default"] == ""


@every_function
def test_keys_are_read_again_long_before_a_new_one_signs(name: str) -> None:
    """A copy of the public keys is at most as old as a function's own, plus two hours in API Gateway."""
    if "TOKEN_PUBLIC_KEYS" in variables(name):
        seconds = int(variables(name)["TOKEN_KEYS_SECONDS"])
        assert seconds + 2 * 3600 + ACCESS_SECONDS <= OVERLAP_SECONDS
        assert variables(name)["TOKEN_PUBLIC_KEYS"] == {"Fn::Sub": "ssm:${TokenPublicKeysParameter}"}


def test_the_template_with_the_authorizer_guards_the_private_routes() -> None:
    guarded = yaml.load(guard(TEXT), _Loader)
    found = {
        f"{event['Properties']['Method']} {event['Properties']['Path']}": event["Properties"].pop("Auth", None)
        for resource in guarded["Resources"].values()
        if resource["Type"] == "AWS::Serverless::Function"
        for event in resource["Properties"].get("Events", {}).values()
        if event["Type"] == "HttpApi"
    }
    assert {route for route, auth in found.items() if auth == {"Authorizer": "Tokens"}} == private_routes()
    assert {route for route, auth in found.items() if auth is None} == set().union(*ROUTES.values()) - private_routes()
    assert guarded["Resources"]["Api"]["Properties"].pop("Auth") == {
        "Authorizers": {
            "Tokens": {
                "IdentitySource": "$request.header.Authorization",
                "JwtConfiguration": {
                    "issuer": variables("AuthFunction")["TOKEN_ISSUER"],
                    "audience": [variables("AuthFunction")["TOKEN_AUDIENCE"]],
                },
            }
        }
    }
    assert guarded == TEMPLATE, "and nothing else is different"


def test_public_routes_are_those_that_nobody_has_a_token_for_yet() -> None:
    """They are what API Gateway lets through: signing in, the public documents, the bank."""
    assert set().union(*ROUTES.values()) - private_routes() == {
        *(f"POST /v1/auth/{call}" for call in ("register", "verify", "login", "refresh")),
        *(f"POST /v1/auth/password/{call}" for call in ("forgot", "reset")),
        *("GET /v1/auth/google", "GET /v1/auth/google/callback", "POST /v1/auth/google/token"),
        *("GET /.well-known/jwks.json", "GET /.well-known/openid-configuration", "GET /openapi.json"),
        *("GET /v1/health", "POST /v1/webhooks/bank/{bank}"),
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('Method: GET, Path: "/v1/me"', "Method: GET, Path: /v1/me"),
        ("FailOnWarnings: true", "FailOnWarnings: false"),
        ('"/v1/transfers/batch"', '"/v1/transfers/many"'),
    ],
)
def test_a_template_that_is_written_differently_is_not_guarded_in_part(before: str, after: str) -> None:
    assert before in TEXT
    with pytest.raises(AuthorizerError, match=r"not written as local/authorizer\.py expects$"):
        guard(TEXT.replace(before, after))


def test_only_auth_sends_mail_and_only_from_its_own_address() -> None:
    assert [name for name in FUNCTIONS if allowed(name, "ses:SendEmail")] == ["AuthFunction"]
    [statement] = [one for one in statements("AuthFunction") if one["Action"] == "ses:SendEmail"]
    assert statement["Condition"] == {"StringEquals": {"ses:FromAddress": {"Ref": "MailFrom"}}}
    assert variables("AuthFunction")["MAIL_FROM"] == {"Ref": "MailFrom"}


def test_only_wallet_invokes_and_only_the_cache_warmer() -> None:
    assert [name for name in FUNCTIONS if allowed(name, "lambda:InvokeFunction")] == ["WalletFunction"]
    assert allowed("WalletFunction", "lambda:InvokeFunction") == [{"Fn::GetAtt": "CacheWarmerFunction.Arn"}]
    assert variables("WalletFunction")["CACHE_WARMER_FUNCTION"] == {"Ref": "CacheWarmerFunction"}


@every_function
def test_no_right_is_a_wildcard(name: str) -> None:
    for statement in statements(name):
        assert statement["Effect"] == "Allow"
        assert "*" not in json.dumps([statement["Action"], statement["Resource"]])


def test_no_secret_is_in_the_file() -> None:
    assert not re.search(r"whsec_[A-Za-z0-9+/]{8}|BEGIN [A-Z ]*PRIVATE KEY|postgres(ql)?://|\bAKIA[0-9A-Z]{16}", TEXT)
    parameters = TEMPLATE["Parameters"]
    assert not [name for name in parameters if re.search("(Secret|Password|Token)$", name)]


@every_function
def test_time_and_memory(name: str) -> None:
    function = {**GLOBALS, **FUNCTIONS[name]}
    assert function["Timeout"] == (60 if name in ("CacheWarmerFunction", "BookkeeperFunction") else 10)
    assert function["MemorySize"] >= (1024 if name == "AuthFunction" else 512)


@every_function
def test_logs_are_kept_for_a_while_only(name: str) -> None:
    group = RESOURCES[FUNCTIONS[name]["LoggingConfig"]["LogGroup"]["Ref"]]
    assert group["Type"] == "AWS::Logs::LogGroup"
    assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_access_log_is_json_and_names_routes_not_paths() -> None:
    log = RESOURCES["Api"]["Properties"]["AccessLogSettings"]["Format"]
    assert json.loads(log)["route"] == "$context.routeKey"
    assert "$context.path" not in log


def test_cache_warmer_runs_every_minute_one_at_a_time() -> None:
    warmer = FUNCTIONS["CacheWarmerFunction"]
    assert [event["Type"] for event in warmer["Events"].values()] == ["ScheduleV2"]
    [schedule] = warmer["Events"].values()
    assert schedule["Properties"]["ScheduleExpression"] == "rate(1 minute)"
    assert warmer["ReservedConcurrentExecutions"] == 1
    assert warmer["EventInvokeConfig"]["MaximumRetryAttempts"] == 0


def test_bookkeeper_sweeps_every_minute_and_audits_one_at_a_time() -> None:
    bookkeeper = FUNCTIONS["BookkeeperFunction"]
    assert {event["Type"] for event in bookkeeper["Events"].values()} == {"ScheduleV2"}
    scheduled = [event["Properties"] for event in bookkeeper["Events"].values()]
    assert {json.loads(one["Input"])["task"]: one["ScheduleExpression"] for one in scheduled} == {
        "sweep": "rate(1 minute)",
        "audit_recent": "rate(5 minutes)",
        "audit_full": "cron(30 2 * * ? *)",
    }
    assert bookkeeper["ReservedConcurrentExecutions"] == 1
    assert bookkeeper["EventInvokeConfig"]["MaximumRetryAttempts"] == 0


def test_browsers_may_send_what_the_routes_need() -> None:
    cors = RESOURCES["Api"]["Properties"]["CorsConfiguration"]
    methods = {route.split()[0] for routes in ROUTES.values() for route in routes}
    assert methods <= set(cors["AllowMethods"])
    assert {"authorization", "content-type", "idempotency-key"} <= set(cors["AllowHeaders"])
    assert cors["AllowOrigins"] == {"Ref": "AllowedOrigins"}
    assert "*" not in TEMPLATE["Parameters"]["AllowedOrigins"]["Default"]


def test_layer_is_built_by_its_makefile_for_the_chosen_processor() -> None:
    layer = RESOURCES["CommonLayer"]
    makefile = (ROOT / layer["Properties"]["ContentUri"] / "Makefile").read_text(encoding="utf-8")
    assert layer["Metadata"]["BuildMethod"] == "makefile"
    assert "build-CommonLayer:" in makefile
    assert layer["Properties"]["CompatibleRuntimes"] == [GLOBALS["Runtime"]] == ["python3.13"]
    assert layer["Properties"]["CompatibleArchitectures"] == GLOBALS["Architectures"] == [{"Ref": "Architecture"}]
    assert DEFAULT_ARCHITECTURE in TEXT


def test_alarms_watch_metrics_that_exist() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("layers/okane_common/okane_common/*.py"))
    code += "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("functions/*/app.py"))
    alarms = [one["Properties"] for one in RESOURCES.values() if one["Type"] == "AWS::CloudWatch::Alarm"]
    own = [alarm for alarm in alarms if not str(alarm.get("Namespace", "AWS/Lambda")).startswith("AWS/")]
    assert {alarm["MetricName"] for alarm in own} == {
        "BankEventQuarantined",
        "BankSignatureRefused",
        "AuditDifferences",
        "AuditRecentFinished",
        "AuditFullFinished",
        "WithdrawalsUnanswered",
    }
    for alarm in own:
        assert alarm["MetricName"] in code, f"nothing counts {alarm['MetricName']}"
        name = "BankWebhookFunction" if alarm["MetricName"].startswith("Bank") else "BookkeeperFunction"
        assert alarm["Namespace"] == variables(name)["POWERTOOLS_METRICS_NAMESPACE"]
        assert alarm["Dimensions"] == [{"Name": "service", "Value": variables(name)["POWERTOOLS_SERVICE_NAME"]}]


def test_every_alarm_says_what_it_means_and_reports() -> None:
    alarms = {name: one["Properties"] for name, one in RESOURCES.items() if one["Type"] == "AWS::CloudWatch::Alarm"}
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+Alarm)$", runbook, re.M) == list(alarms)
    for name, alarm in alarms.items():
        assert len(alarm["AlarmDescription"]) > 40
        assert alarm["AlarmActions"]["Fn::If"][0] == "HasAlarmTopic"
        assert alarm["TreatMissingData"] == ("breaching" if name.endswith("MissingAlarm") else "notBreaching")


def test_dashboard_is_json() -> None:
    body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    assert len(json.loads(body)["widgets"]) == 6
