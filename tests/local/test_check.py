"""local/check.py and what it stands on: a failed check is never a green one."""

import functools
from pathlib import Path

import pytest

from local import check, imports, openapi
from local.template import load


def fails() -> str:
    """A check that fails."""
    raise check.CheckError("here is why")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checks instead of the real ones."""
    monkeypatch.setattr(check, "CHECKS", {"bad": ("cannot pass", fails), "good": ("passes", lambda: "fine")})


@pytest.mark.usefixtures("checks")
def test_one_failure_fails_all_and_the_rest_still_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([]) == 1
    printed = capsys.readouterr().out
    assert "here is why" in printed
    assert "bad       FAILED" in printed
    assert "good      ok" in printed


@pytest.mark.usefixtures("checks")
def test_only_the_named_ones_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["good"]) == 0
    assert "bad" not in capsys.readouterr().out


@pytest.mark.usefixtures("checks")
def test_an_unknown_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check.main(["goof"])
    assert "no such check: goof" in capsys.readouterr().err


def test_a_tool_that_fails_is_a_failed_check() -> None:
    with pytest.raises(check.CheckError, match="no-such-file"):
        check._run("ruff", "check", "no-such-file.py")


def test_an_outdated_openapi_document_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = openapi.KEPT.read_text(encoding="utf-8")
    (tmp_path / "old.json").write_text(kept.replace('"Send money"', '"Send much money"'), encoding="utf-8")
    monkeypatch.setattr(openapi, "KEPT", tmp_path / "old.json")
    monkeypatch.setattr(openapi, "generate", functools.cache(openapi.generate))  # it takes seconds
    assert "old.json is not what the code says" in openapi.difference()
    openapi.write()
    assert (tmp_path / "old.json").read_text(encoding="utf-8") == kept


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import boto3\nlambda_handler = print", "No module named 'boto3'"),
        ("import argon2\nlambda_handler = print", "WarmerFunction imports argon2 at its start"),
        ("lambda_handler = 1", "is not callable"),
        ("import os\nlambda_handler = print\nos.environ['HOME']", "KeyError: 'HOME'"),
        ("lambda_handler = print", None),
    ],
)
def test_handlers_that_would_not_start_on_lambda_are_found(tmp_path: Path, code: str, fault: str | None) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(code)
    (tmp_path / "layer" / "python").mkdir(parents=True)
    (tmp_path / "layer" / "python" / "argon2.py").write_text("")
    (tmp_path / "template.yaml").write_text(
        """
Resources:
  Layer: {Type: "AWS::Serverless::LayerVersion", Properties: {ContentUri: layer}}
  WarmerFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: code, Handler: app.lambda_handler, Layers: [!Ref Layer]}
"""
    )
    assert load(tmp_path / "template.yaml").functions
    faults = "\n".join(imports.check(tmp_path / "template.yaml"))
    if fault is None:
        assert not faults
    else:
        assert fault in faults
