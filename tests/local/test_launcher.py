"""The launcher `okane` in a copy of its own, with a `local` package that only says what it was given."""

import ast
import importlib.machinery
import importlib.util
import json
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Answers like uv as far as the launcher asks, and notes what it was asked. FAIL and SLOW are files beside it.
FAKE_UV = f"""\
#!{sys.executable}
import pathlib, subprocess, sys, time
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:3]) + "\\n")
if (here / "FAIL").exists():
    sys.exit("no network, says uv")
if sys.argv[1] == "venv":
    if (here / "SLOW").exists():
        time.sleep(1)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", sys.argv[-1]], check=True)
print("Installed 68 packages in 1ms")
"""

FAKE_LOCAL = """\
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "directory": os.getcwd(), "prefix": sys.prefix}))
sys.exit(7)
"""


@dataclass
class Checkout:
    """A copy of the launcher with an empty list of requirements."""

    folder: Path
    tools: Path

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.folder / "okane"), *arguments],
            cwd=cwd or self.folder,
            env={"PATH": f"{self.tools}{os.pathsep}{os.defpath}", "HOME": ""} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def calls(self) -> list[str]:
        """What uv was asked since the last time."""
        log = self.tools / "calls"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder, tools = tmp_path / "a checkout", tmp_path / "tools"
    (folder / "local").mkdir(parents=True)
    tools.mkdir()
    (folder / "okane").write_bytes((ROOT / "okane").read_bytes())
    (folder / "requirements-dev.txt").write_text("")
    (folder / "local" / "__main__.py").write_text(FAKE_LOCAL)
    uv = tools / "uv"
    uv.write_text(FAKE_UV)
    uv.chmod(0o755)
    return Checkout(folder, tools)


@pytest.fixture(scope="module")
def launcher() -> ModuleType:
    """The launcher as a module."""
    loader = importlib.machinery.SourceFileLoader("okane_launcher", str(ROOT / "okane"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no okanec beside it
    loader.exec_module(module)
    sys.dont_write_bytecode = written
    return module


def test_an_old_python_can_read_it() -> None:
    ast.parse((ROOT / "okane").read_text(), feature_version=(3, 6))
    assert (ROOT / "okane").stat().st_mode & stat.S_IXUSR


def test_help_explains_every_command_without_installing(checkout: Checkout, launcher: ModuleType) -> None:
    overview = checkout.run("--help")
    assert overview.returncode == 0
    assert checkout.run().stdout == overview.stdout
    for name, (summary, _) in launcher.COMMANDS.items():
        assert f"{name} " in overview.stdout
        assert summary in overview.stdout
        one = checkout.run(name, "--help")
        assert one.returncode == 0
        assert f"./okane {name}" in one.stdout
    assert not (checkout.folder / ".venv").exists()
    assert not (checkout.folder / ".okane").exists()


def test_an_unknown_command_is_refused_with_the_list(checkout: Checkout) -> None:
    done = checkout.run("upp")
    assert done.returncode == 2
    assert "'upp'" in done.stderr
    assert "migrate" in done.stderr


def test_the_first_start_installs_and_the_second_does_not(checkout: Checkout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "local.py").write_text("raise SystemExit('the wrong local')")
    first = checkout.run("demo", "--flag", "a b", cwd=elsewhere)
    assert first.returncode == 7, first.stderr
    said = json.loads(first.stdout)
    assert said["arguments"] == ["demo", "--flag", "a b"]
    assert said["directory"] == str(elsewhere)
    assert said["prefix"] == str(checkout.folder / ".venv")
    assert "making .venv" in first.stderr
    assert "Installed 68 packages" in first.stderr
    assert checkout.calls() == ["venv --quiet", "pip sync"]
    second = checkout.run("demo")
    assert (second.returncode, second.stderr) == (7, "")
    assert checkout.calls() == []


def test_changed_requirements_update_what_is_there(checkout: Checkout) -> None:
    checkout.run("demo")
    checkout.calls()
    mine = checkout.folder / ".venv" / "mine"
    mine.touch()
    (checkout.folder / "requirements-dev.txt").write_text("# another set\n")
    assert checkout.run("demo").returncode == 7
    assert checkout.calls() == ["pip sync"]
    assert mine.exists()


def test_an_interrupted_installation_is_done_again(checkout: Checkout) -> None:
    checkout.run("demo")
    (checkout.folder / ".venv" / "okane-stamp").unlink()
    half = checkout.folder / ".venv" / "half-written"
    half.touch()
    assert checkout.run("demo").returncode == 7
    assert not half.exists()


def test_two_first_starts_install_once(checkout: Checkout) -> None:
    (checkout.tools / "SLOW").touch()
    command = [sys.executable, str(checkout.folder / "okane"), "demo"]
    environment = {"PATH": f"{checkout.tools}{os.pathsep}{os.defpath}"}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [7, 7], said
    assert sum("waiting" in text for text in said) == 1
    assert checkout.calls().count("pip sync") == 1


def test_pip_does_it_when_uv_fails(checkout: Checkout) -> None:
    (checkout.tools / "FAIL").touch()
    done = checkout.run("demo", HOME="/nonexistent")
    assert done.returncode == 7, done.stderr
    assert "no network, says uv" in done.stderr
    assert "making .venv with pip" in done.stderr


def test_a_failed_installation_is_said_and_leaves_no_stamp(checkout: Checkout) -> None:
    (checkout.tools / "FAIL").touch()
    (checkout.folder / "requirements-dev.txt").write_text("no-hash-given==1.0\n")
    done = checkout.run("demo")
    assert done.returncode == 1
    assert "nothing is installed" in done.stderr
    assert not (checkout.folder / ".venv" / "okane-stamp").exists()


def test_without_python_3_13_it_says_what_to_install(
    launcher: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "python_candidates", lambda uv: iter([["/nonexistent/python3.13"]]))
    with pytest.raises(SystemExit) as stopped:
        launcher.install("stamp", "")
    assert stopped.value.code == 1
    assert "uv python install 3.13" in capsys.readouterr().err


def test_a_program_that_is_not_python_3_13_is_passed_over(launcher: ModuleType, tmp_path: Path) -> None:
    def program(name: str, text: str) -> list[str]:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
        path.chmod(0o755)
        return [str(path)]

    assert launcher.probe(program("broken-shim", "echo not installed >&2; exit 127")) == ""
    assert launcher.probe(program("python3.12", "echo")) == ""
    assert launcher.probe(["/nonexistent"]) == ""
    found = launcher.probe([sys.executable])
    assert found
    assert not Path(found).is_relative_to(sys.prefix)  # the interpreter, not this virtual environment


def test_installers_see_no_foreign_settings(launcher: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign: Mapping[str, str] = {
        "PYTHONPATH": "/x",
        "VIRTUAL_ENV": "/y",
        "PIP_TARGET": "/z",
        "HOME": "/nonexistent",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    seen = launcher.installer_environment()
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "PIP_TARGET"} & set(seen)
    assert os.access(seen["HOME"], os.W_OK)
