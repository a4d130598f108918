"""`./okane check`: everything that has to be right before a commit; the continuous integration runs just this.

    ./okane check                 all of it, in order, and a summary
    ./okane check types tests     only these
    ./okane check --fix           first repair what a machine can: format, lint, openapi.json

Every check runs to its end, also after another has failed. Exit 1 if any did.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from local import imports, openapi
from local.build import ARCHITECTURES, ROOT, BuildError, build, built, machine, sam, size

LAYER_BYTES = 120_000_000  # unzipped; Lambda's own limit, for the layer and a function together, is 250 MB
NOT_LINUX = "not here: what was built is for Linux"

type Check = Callable[[], str]  # returns a remark for the summary, or raises CheckError


class CheckError(Exception):
    """A check failed; the text is what to look at."""


def _run(*module: str) -> str:
    """Run a Python module of .venv on the checkout; its output is shown only if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CheckError(done.stdout.strip())
    return ""


def _pytest(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run tests with their output as it comes: they take the longest, and their last line is worth seeing."""
    # --verbosity=0 undoes the -q of pyproject.toml, so that the closing line is the usual one.
    command = [sys.executable, "-m", "pytest", "--verbosity=0", *arguments]
    code = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})}, check=False
    ).returncode
    if code != 0:
        raise CheckError(f"pytest ended with {code}")
    return ""


def _format() -> str:
    return _run("ruff", "format", "--check", ".")


def _lint() -> str:
    return _run("ruff", "check", ".")


def _types() -> str:
    return _run("mypy")


def _tests() -> str:
    try:
        return _pytest()
    except CheckError:  # side by side on busy cores, a test of what happens in between can come too late
        return _pytest("--last-failed", "-n", "0")


def _openapi() -> str:
    difference = openapi.difference()
    if difference:
        raise CheckError(difference)
    return ""


def _template() -> str:
    sam("validate", "--lint")
    return ""


def _build() -> str:
    remarks = []
    for architecture in ARCHITECTURES:
        layer = size(build(architecture) / "CommonLayer")
        if layer > LAYER_BYTES:
            raise CheckError(f"the {architecture} layer has {layer:,} bytes, more than {LAYER_BYTES:,}")
        remarks.append(f"{architecture} layer {layer / 1e6:.0f} MB")
    return ", ".join(remarks)


def _imports() -> str:
    if sys.platform != "linux":
        return NOT_LINUX
    faults = imports.check(built(machine()) / "template.yaml")
    if faults:
        raise CheckError("\n".join(faults))
    return machine()


def _built() -> str:
    if sys.platform != "linux":
        return NOT_LINUX
    return _pytest("-m", "built", environment={"OKANE_BUILT": "1"})


CHECKS: dict[str, tuple[str, Check]] = {
    "format": ("ruff format, nothing to change", _format),
    "lint": ("ruff check", _lint),
    "types": ("mypy, strict", _types),
    "tests": ("pytest", _tests),
    "openapi": ("openapi.json is what the code says", _openapi),
    "template": ("sam validate --lint", _template),
    "build": ("sam build for arm64 and x86_64", _build),
    "imports": ("each built handler starts on the standard library and the built layer alone", _imports),
    "built": ("the tests marked `built`, against what was built", _built),
}


def _fix() -> None:
    """What cannot be repaired is told by the checks that follow."""
    for arguments in (("format", "."), ("check", "--fix", "--quiet", ".")):
        subprocess.run(
            [sys.executable, "-m", "ruff", *arguments], cwd=ROOT, check=False
        )  # the checks tell what is left
    with contextlib.suppress(openapi.OpenApiError):
        openapi.write()


def _perform(name: str) -> str | None:
    """Run one check, say how it went, and return its line of the summary; None for that if it failed."""
    description, check = CHECKS[name]
    print(f"--- {name}: {description}", flush=True)
    started = time.monotonic()
    try:
        remark = check()
    except (CheckError, BuildError, openapi.OpenApiError) as error:
        print(f"{error}\n--- {name}: FAILED after {time.monotonic() - started:.1f} s", flush=True)
        return None
    return f"{time.monotonic() - started:6.1f} s  {remark}"


def main(arguments: list[str]) -> int:
    """The command `check`. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="./okane check",
        description="Run every check that the continuous integration runs.",
        epilog="\n".join(f"  {name:<10}{description}" for name, (description, _) in CHECKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="CHECK", help="only these; all of them if none is named")
    parser.add_argument("--fix", action="store_true", help="first repair what a machine can")
    chosen = parser.parse_args(arguments)
    names = chosen.names or list(CHECKS)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    if chosen.fix:
        _fix()
    outcomes = {name: _perform(name) for name in names}
    print("--- summary", flush=True)
    for name, outcome in outcomes.items():
        print(f"{name:<10}{'FAILED' if outcome is None else 'ok    ' + outcome}", flush=True)
    return 1 if None in outcomes.values() else 0
