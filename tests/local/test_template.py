"""Reading SAM templates: what the platform runs, and what it refuses to guess."""

from pathlib import Path

import pytest

from local.template import Cors, Route, Schedule, TemplateError, load

FIXTURE = Path(__file__).with_name("fixtures") / "platform" / "template.yaml"

HEAD = """
Parameters:
  Stage: {Type: String, Default: prod}
  Number: {Type: Number, Default: 7}
  Secret: {Type: String}
  Stored: {Type: "AWS::SSM::Parameter::Value<String>", Default: /okane/stored}
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  Either: !Or [!Condition IsProd, !Equals [a, b]]
  Both: !And [!Condition IsProd, !Not [!Condition Either]]
Mappings:
  Sizes: {prod: {memory: 512}}
Resources:
  Thing:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: code
      Handler: app.lambda_handler
"""


def written(folder: Path, text: str) -> Path:
    (folder / "code").mkdir(exist_ok=True)
    path = folder / "template.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_functions_have_globals_merged_with_their_own() -> None:
    template = load(FIXTURE)
    assert list(template.functions) == ["EchoFunction", "WorkerFunction", "BrokenFunction"]
    echo, worker = template.functions["EchoFunction"], template.functions["WorkerFunction"]
    assert (echo.handler, echo.timeout, echo.memory, echo.reserved, echo.retries) == (
        *("app.lambda_handler", 5.0, 256),
        *(None, 2),
    )
    assert (worker.timeout, worker.reserved, worker.retries) == (1.0, 2, 1)
    assert echo.code == FIXTURE.parent / "functions" / "echo"
    assert echo.layers == (FIXTURE.parent / "layers" / "shared",)
    assert echo.variables == {
        "STAGE": "prod",
        "GREETING": "hello from prod",
        "OTHER_FUNCTION": "WorkerFunction",
        "MODE": "careful",
    }
    assert echo.unresolved == {"SECRET": "!Ref SecretArn"}


def test_parameters_change_what_is_read() -> None:
    template = load(FIXTURE, {"Stage": "test", "SecretArn": "given", "Origins": "*"})
    assert "TestOnlyFunction" in template.functions
    assert template.functions["EchoFunction"].variables["MODE"] == "quick"
    assert template.functions["EchoFunction"].variables["SECRET"] == "given"
    assert template.cors is not None
    assert template.cors.origins == ("*",)
    with pytest.raises(TemplateError, match="no such parameter: Typo"):
        load(FIXTURE, {"Typo": "x"})


def test_routes_cors_and_schedules_are_read() -> None:
    template = load(FIXTURE)
    assert Route("GET", "/items/{id}", "EchoFunction") in template.routes
    assert Route("ANY", "/files/{proxy+}", "EchoFunction").key == "ANY /files/{proxy+}"
    assert template.cors == Cors(
        origins=("http://localhost:5173", "https://app.example.com"),
        methods=("GET", "POST"),
        headers=("authorization", "content-type"),
        expose=("x-request-id",),
        max_age=600,
        credentials=False,
    )
    nightly = '{"do": "note", "text": "nightly"}'
    assert template.schedules == (
        Schedule("WorkerFunctionHourly", "WorkerFunction", "rate(1 hour)", "UTC", None, "aws.scheduler"),
        Schedule("nightly", "WorkerFunction", "cron(30 3 ? * MON-FRI *)", "UTC", nightly, "aws.events"),
    )


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("plain", "plain"),
        ("12", "12"),
        ("true", "true"),
        ("!Ref Number", "7"),
        ("!Ref AWS::Region", "us-east-1"),
        ("!Ref Thing", "Thing"),
        ("!GetAtt Thing.Arn", "arn:aws:lambda:us-east-1:000000000000:function:Thing"),
        ("!Sub '${Stage}-${!Stage}-${AWS::AccountId}-${Thing.Arn}'", None),
        ("!Sub ['${a}/${Stage}', {a: !Ref Number}]", "7/prod"),
        ("!Join ['-', [a, !Ref Stage, !If [IsProd, c, !Ref 'AWS::NoValue']]]", "a-prod-c"),
        ("!Select [1, !Split [',', 'a,b,c']]", "b"),
        ("!FindInMap [Sizes, !Ref Stage, memory]", "512"),
        ("!Base64 abc", "YWJj"),
        ("!If [Either, yes-sir, no]", "yes-sir"),
        ("!If [Both, a, b]", "b"),
        ("{'Fn::Join': ['', [a, b]]}", "ab"),
    ],
)
def test_values_are_worked_out(tmp_path: Path, expression: str, value: str | None) -> None:
    text = HEAD + f"      Environment: {{Variables: {{X: {expression}}}}}\n"
    found = load(written(tmp_path, text)).functions["Thing"].variables["X"]
    expected = "prod-${Stage}-000000000000-arn:aws:lambda:us-east-1:000000000000:function:Thing"
    assert found == (expected if value is None else value)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("!Ref Secret", "!Ref Secret"),
        ("!Ref Stored", "!Ref Stored"),
        ("!Ref Bucket", "!Ref Bucket"),
        ("!GetAtt Api.Endpoint", "!GetAtt Api.Endpoint"),
        ("!Sub 'https://${Api}.example.com'", "!Ref Api"),
        ("!ImportValue other", "!ImportValue"),
        ("!FindInMap [Sizes, test, memory]", "!FindInMap Sizes.test.memory"),
        ("'{{resolve:secretsmanager:x}}'", "a dynamic reference"),
        ("!If [Unknown, a, b]", "condition Unknown"),
        ("[a, b]", "a value that is not text"),
    ],
)
def test_what_only_a_deployment_knows_needs_an_override(tmp_path: Path, expression: str, why: str) -> None:
    text = HEAD + f"      Environment: {{Variables: {{X: {expression}, Y: fixed}}}}\n"
    function = load(written(tmp_path, text)).functions["Thing"]
    assert function.unresolved == {"X": why}
    assert function.environment({"X": "given", "Undeclared": "left out"}) == {"X": "given", "Y": "fixed"}
    with pytest.raises(TemplateError) as missing:
        function.environment({})
    assert str(missing.value) == f"Thing: no value for X ({why}); give an override"


def test_a_variable_that_is_no_value_is_not_there(tmp_path: Path) -> None:
    text = HEAD + "      Environment: {Variables: {X: !Ref 'AWS::NoValue'}}\n"
    assert load(written(tmp_path, text)).functions["Thing"].environment({}) == {}


def test_a_built_layer_is_imported_from_its_python_folder(tmp_path: Path) -> None:
    text = HEAD + "      Layers: [!Ref Layer, 'arn:aws:lambda:us-east-1:1:layer:x:1']\n"
    text += "  Layer: {Type: 'AWS::Serverless::LayerVersion', Properties: {ContentUri: Layer}}\n"
    (tmp_path / "Layer").mkdir()
    path = written(tmp_path, text)
    assert load(path).functions["Thing"].layers == (tmp_path / "Layer",)
    (tmp_path / "Layer" / "python").mkdir()
    assert load(path).functions["Thing"].layers == (tmp_path / "Layer" / "python",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- not a template", "it has no Resources"),
        ("a: [", "template.yaml"),
        (HEAD.replace("CodeUri: code", "CodeUri: nowhere"), "Thing.CodeUri: no such folder: nowhere"),
        (HEAD.replace("CodeUri: code", "InlineCode: x"), "only functions with a CodeUri folder"),
        (HEAD.replace("Handler: app.lambda_handler", "Timeout: 3"), "Thing: no Handler"),
        (HEAD + "      MemorySize: !Ref Secret\n", "Thing.MemorySize: cannot work out !Ref Secret"),
        (HEAD + "      MemorySize: much\n", "not of the form that SAM has"),
        (HEAD + "      Events: {A: {Type: Api, Properties: {}}}\n", "REST APIs are not served here"),
        (
            HEAD + "      Events: {A: {Type: HttpApi, Properties: {Path: /, Auth: {Authorizer: J}}}}\n",
            "authorizers are not run here",
        ),
        (
            HEAD + "      Events: {A: {Type: HttpApi, Properties: {Path: /, PayloadFormatVersion: '1.0'}}}\n",
            "only payload format 2.0",
        ),
        (
            HEAD + "      Events: {A: &a {Type: HttpApi, Properties: {Path: /x, Method: get}}, B: *a}\n",
            "routes given twice: GET /x",
        ),
        (
            HEAD + "  A: {Type: 'AWS::Serverless::HttpApi'}\n  B: {Type: 'AWS::Serverless::HttpApi'}\n",
            "one HTTP API is served here, not 2: A, B",
        ),
        (
            HEAD + "  A: {Type: 'AWS::Serverless::HttpApi', Properties: {StageName: v1}}\n",
            "only the $default stage",
        ),
        (
            HEAD + "  A: {Type: 'AWS::Serverless::HttpApi', Properties: {DefinitionUri: x}}\n",
            "not from a definition",
        ),
    ],
)
def test_what_cannot_run_here_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TemplateError) as refused:
        load(written(tmp_path, text))
    assert message in str(refused.value)


def test_a_template_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"missing\.yaml"):
        load(tmp_path / "missing.yaml")


def test_the_real_template_is_one_that_runs_here() -> None:
    template = load(Path(__file__).resolve().parents[2] / "template.yaml")
    assert {route.function for route in template.routes} <= set(template.functions)
    assert template.schedules
