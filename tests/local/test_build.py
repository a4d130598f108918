"""local/build.py without SAM: how a build gets into its place, and what is refused. `./okane check` runs SAM itself."""

import threading
from pathlib import Path

import pytest

from local import build


def elf(machine: int) -> bytes:
    """The beginning of a shared library."""
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(40)


def test_the_default_place_is_for_this_machine() -> None:
    assert build.built(build.machine()) == build.OUTPUT / "build"
    assert {build.built(architecture).name for architecture in build.ARCHITECTURES} == {
        "build",
        f"build-{({*build.ARCHITECTURES} - {build.machine()}).pop()}",
    }


def test_a_library_for_another_processor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fine.so").write_bytes(elf(build.ELF_MACHINES["arm64"]))
    (tmp_path / "script.so").write_bytes(b"GROUP ( x )")  # a linker script is no library
    build._require_machine(tmp_path, "arm64")
    (tmp_path / "foreign.so.3").write_bytes(elf(build.ELF_MACHINES["x86_64"]))
    with pytest.raises(build.BuildError, match=r"foreign\.so\.3 is not for arm64"):
        build._require_machine(tmp_path, "arm64")


def test_builds_at_once_leave_one_whole_build(tmp_path: Path) -> None:
    place = tmp_path / "build"
    start = threading.Barrier(4)
    failures: list[Exception] = []

    def put(number: int) -> None:
        work = tmp_path / f"making-{number}"
        for half in ("a", "b"):
            (work / "new").mkdir(parents=True, exist_ok=True)
            (work / "new" / half).write_text(str(number))
        start.wait(10)
        try:
            build._put_in_place(work / "new", place, work / "old")
        except (build.BuildError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not failures
    assert (place / "a").read_text() == (place / "b").read_text()


def test_a_failed_build_leaves_the_last_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: str, architecture: str | None = None) -> str:
        raise build.BuildError("no")

    monkeypatch.setattr(build, "OUTPUT", tmp_path)
    monkeypatch.setattr(build, "sam", refuse)
    (tmp_path / "build").mkdir()
    with pytest.raises(build.BuildError):
        build.build(build.machine())
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_sam_sees_no_credentials_and_writes_into_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    environment = build._environment("x86_64")
    assert {name for name in environment if name.startswith("AWS_")} == {
        "AWS_DEFAULT_REGION",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
    assert environment["OKANE_ARCH"] == "x86_64"
    for name in ("HOME", "UV_CACHE_DIR", "UV_TOOL_DIR", "__SAM_CLI_APP_DIR"):
        assert Path(environment[name]).is_relative_to(build.TOOLS)
