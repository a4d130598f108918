"""The built layer: what Lambda gets at /opt/python.

The tests marked `built` look at what `./okane build --arch both` has made; `./okane check` builds and then runs them.
"""

import filecmp
import importlib.util
import marshal
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local import imports
from local.build import ARCHITECTURES, ELF_MACHINES, built, machine, size
from local.check import LAYER_BYTES
from local.template import load

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "layers" / "okane_common"
UNCHECKED_HASH = 0b01  # the flags of a .pyc (PEP 552)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="the layer is built by make")
needs_build = pytest.mark.skipif(
    os.environ.get("OKANE_BUILT") != "1", reason="run by ./okane check, after it has built"
)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def make(target: Path, architecture: str) -> "subprocess.Popen[str]":
    """Start the makefile as SAM does."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        ["make", "--makefile", str(SOURCE / "Makefile"), "build-CommonLayer"],
        cwd=SOURCE,
        env={**inherited, "ARTIFACTS_DIR": str(target), "OKANE_ARCH": architecture},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def layer_of(architecture: str) -> Path:
    """The folder that will be /opt/python."""
    return built(architecture) / "CommonLayer" / "python"


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    process = make(tmp_path, "mips")
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert 'OKANE_ARCH is "mips"; it must be arm64 or x86_64' in output
    assert not list(tmp_path.iterdir())


@needs_build
@pytest.mark.built
@every_architecture
def test_layer_is_small(architecture: str) -> None:
    assert 10_000_000 < size(layer_of(architecture)) < LAYER_BYTES


@needs_build
@pytest.mark.built
@every_architecture
def test_every_module_is_compiled_for_the_place_where_it_will_be(architecture: str) -> None:
    layer = layer_of(architecture)
    modules = list(layer.rglob("*.py"))
    assert len(modules) > 500
    for module in modules:
        compiled = Path(importlib.util.cache_from_source(str(module))).read_bytes()
        assert compiled[:4] == importlib.util.MAGIC_NUMBER
        assert int.from_bytes(compiled[4:8], "little") == UNCHECKED_HASH
        assert compiled[8:16] == importlib.util.source_hash(module.read_bytes())
        assert marshal.loads(compiled[16:]).co_filename == f"/opt/python/{module.relative_to(layer)}"


@needs_build
@pytest.mark.built
@every_architecture
def test_libraries_are_for_the_processor(architecture: str) -> None:
    libraries = [path.read_bytes()[:20] for path in layer_of(architecture).rglob("*.so*")]
    assert len(libraries) > 5
    assert all(header[:4] == b"\x7fELF" for header in libraries)
    assert {int.from_bytes(header[18:20], "little") for header in libraries} == {ELF_MACHINES[architecture]}


@needs_build
@pytest.mark.built
@every_architecture
def test_layer_holds_our_code_and_nothing_idle(architecture: str) -> None:
    layer = layer_of(architecture)
    ours = [path for path in (SOURCE / "okane_common").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in ours:
        assert filecmp.cmp(path, layer / path.relative_to(SOURCE), shallow=False)
    idle = [path for path in layer.rglob("*") if path.suffix in (".pyi", ".c", ".h") or path.name in ("tests", "bin")]
    assert not idle
    # The managed runtime has boto3, and a copy would hide its updates; the others are for this machine only.
    assert not {"boto3", "botocore", "pytest", "awslambdaric", "pip"} & {path.name for path in layer.iterdir()}


@needs_build
@pytest.mark.built
@every_architecture
def test_built_template_is_for_its_own_processor(architecture: str) -> None:
    text = (built(architecture) / "template.yaml").read_text(encoding="utf-8")
    assert re.search(rf"^  Architecture:\n    Type: String\n    Default: {architecture}$", text, re.M)
    for function in load(built(architecture) / "template.yaml").functions.values():
        kept = {path.name for path in function.code.iterdir()} - {"__pycache__"}  # which running it there leaves behind
        assert kept == {"app.py"}
        assert [path.name for path in function.layers] == ["python"]


@needs_build
@pytest.mark.built
def test_two_builds_at_once_give_the_same_bytes_as_the_one_before(tmp_path: Path) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    running = [make(target, machine()) for target in targets]
    for process in running:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    before = contents(layer_of(machine()))
    assert [contents(target / "python") == before for target in targets] == [True, True]


@needs_build
@pytest.mark.built
@pytest.mark.skipif(sys.platform != "linux", reason="the layer is for Linux")
def test_layer_without_compiled_modules_would_be_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "built"
    shutil.copytree(built(machine()), copy)
    for path in list((copy / "CommonLayer" / "python" / "okane_common").rglob("*.pyc")):
        path.unlink()
    assert any("has no .pyc in the layer" in fault for fault in imports.check(copy / "template.yaml"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
