"""`./okane build`: the functions and the layer as AWS Lambda gets them; no Docker, no AWS account.

    ./okane build                 for this machine's processor, into .aws-sam/build
    ./okane build --arch both     and for the other one, into .aws-sam/build-arm64 or .aws-sam/build-x86_64
    ./okane build --jwt-authorizer    with API Gateway's authorizer (see authorizer.py), into .aws-sam/build-<arch>-authorizer

`./okane up --built` runs what is in .aws-sam/build, and `sam deploy` sends it; for the other one it is
`sam deploy --template-file .aws-sam/build-arm64/template.yaml`. A built template has the processor that it was
built for as the default of its parameter Architecture, so that a layer never reaches functions of the wrong kind.

SAM is no part of .venv, since it brings eighty packages of its own: uv keeps it apart, in .aws-sam/tools.
"""

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local.authorizer import AuthorizerError, guard

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / ".aws-sam"
TOOLS = OUTPUT / "tools"
ARCHITECTURES = ("arm64", "x86_64")
ELF_MACHINES = {"arm64": 183, "x86_64": 62}  # e_machine: EM_AARCH64, EM_X86_64
# cfn-lint decides what `sam validate --lint` says: pinned too, so that a check does not turn red by itself.
SAM = ("--from", "aws-sam-cli==1.170.0", "--with", "cfn-lint==1.58.0")
DEFAULT_ARCHITECTURE = """
  Architecture:
    Type: String
    Default: arm64
"""  # as it stands in template.yaml


class BuildError(Exception):
    """The build failed; the text says why, with the output of the tool that failed."""


def machine() -> str:
    """This machine's processor in Lambda's words: arm64 or x86_64."""
    return "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "x86_64"


def built(architecture: str, *, guarded: bool = False) -> Path:
    """The folder that `build` fills for this architecture; its template.yaml names folders inside it."""
    if guarded:
        return OUTPUT / f"build-{architecture}-authorizer"
    return OUTPUT / ("build" if architecture == machine() else f"build-{architecture}")


def sam(*arguments: str, architecture: str | None = None) -> str:
    """Run SAM from the checkout and return what it printed. Raises BuildError.

    What it does here needs no AWS account and must not depend on one, so it sees no AWS_* and no ~/.aws.
    """
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise BuildError("uv is missing; it is part of requirements-dev.txt")
    if shutil.which("make") is None:
        raise BuildError("make is missing; the layer is built by layers/okane_common/Makefile")
    command = [uv, "tool", "run", "--quiet", "--python", sys.executable, *SAM, "sam", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=_environment(architecture),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"sam {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout.strip()}")
    return done.stdout


def _environment(architecture: str | None) -> dict[str, str]:
    """Ours without what is not for SAM, and with every cache inside the checkout."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV") and not name.startswith("AWS_")
    }
    home = Path(inherited.get("HOME", os.devnull))
    if not os.access(home, os.W_OK):
        home = TOOLS / "home"
        home.mkdir(parents=True, exist_ok=True)
    return inherited | {
        "HOME": str(home),  # where uv looks for its settings
        # SAM looks for python3.13 on PATH before it copies the functions.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "UV_CACHE_DIR": inherited.get("UV_CACHE_DIR", str(TOOLS / "uv")),
        "UV_TOOL_DIR": str(TOOLS / "installed"),
        "__SAM_CLI_APP_DIR": str(TOOLS / "sam"),
        "SAM_CLI_TELEMETRY": "0",
        "AWS_DEFAULT_REGION": "us-east-1",  # cfn-lint looks resource types up by region
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        **({} if architecture is None else {"OKANE_ARCH": architecture}),
    }


def build(architecture: str, *, guarded: bool = False) -> Path:
    """Build everything for one architecture and return its folder; guarded: with the JWT authorizer. Raises BuildError.

    It is made aside and put in place when it is whole: two builds at once, or one that fails, do no harm.
    """
    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUTPUT, prefix="making-") as name:
        work = Path(name)
        template = (ROOT / "template.yaml").read_text(encoding="utf-8")
        if DEFAULT_ARCHITECTURE not in template:
            raise BuildError("template.yaml: the parameter Architecture does not begin as local/build.py expects")
        chosen = DEFAULT_ARCHITECTURE.replace("arm64", architecture)
        template = template.replace(DEFAULT_ARCHITECTURE, chosen, 1)
        try:
            (work / "template.yaml").write_text(guard(template) if guarded else template, encoding="utf-8")
        except AuthorizerError as error:
            raise BuildError(str(error)) from error
        sam(
            "build",
            *("--template-file", str(work / "template.yaml")),
            *("--base-dir", str(ROOT)),
            *("--build-dir", str(work / "build")),
            *("--cache-dir", str(work / "cache")),
            "--parallel",
            architecture=architecture,
        )
        _require_machine(work / "build", architecture)
        place = built(architecture, guarded=guarded)
        _put_in_place(work / "build", place, work / "old")
    return place


def _require_machine(folder: Path, architecture: str) -> None:
    for library in folder.rglob("*.so*"):
        with library.open("rb") as file:
            header = file.read(20)
        if header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") != ELF_MACHINES[architecture]:
            raise BuildError(f"{library.relative_to(folder)} is not for {architecture}")


def _put_in_place(new: Path, place: Path, old: Path) -> None:
    for _ in range(10):  # another build may put its own there between our two steps
        with contextlib.suppress(FileNotFoundError):
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            shutil.rmtree(old, ignore_errors=True)
            continue
        return
    raise BuildError(f"{place} is being written by several builds at once; run the command again")


def size(folder: Path) -> int:
    """Bytes of all files below a folder: what Lambda's limit of 250 MB (unzipped) counts."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str]) -> int:
    """The command `build`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="./okane build", description="Build for AWS Lambda, without Docker.")
    parser.add_argument("--arch", choices=[*ARCHITECTURES, "both"], default=machine())
    parser.add_argument("--jwt-authorizer", action="store_true", help="API Gateway checks access tokens, too")
    given = parser.parse_args(arguments)
    for architecture in ARCHITECTURES if given.arch == "both" else (given.arch,):
        try:
            folder = build(architecture, guarded=given.jwt_authorizer)
        except BuildError as error:
            print(f"okane build: {error}", file=sys.stderr)
            return 1
        layer = size(folder / "CommonLayer") / 1e6
        place = folder.relative_to(ROOT)
        print(f"{architecture}: {place} (layer {layer:.0f} MB unzipped)")
        print(f"  sam deploy --guided --template-file {place}/template.yaml")
    return 0
