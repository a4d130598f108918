"""Gateways for the tests of this folder, with AWS's runtime client and with ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.workers import default_client
from tests.local.fixtures.loop import running_loop
from tests.local.fixtures.running import Running, copy_sources


@pytest.fixture(scope="module", params=["awslambdaric", "runtime_client"])
def runtime(request: pytest.FixtureRequest) -> str:
    """A runtime client: what uses it runs once with each."""
    if request.param == "awslambdaric" and default_client() != "awslambdaric":
        pytest.skip("awslambdaric has no wheel here")
    return str(request.param)


@pytest.fixture(scope="module")
def shared(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway for all tests of a module that leave it as it was."""
    with running_loop() as loop:
        running = Running(loop, copy_sources(tmp_path_factory.mktemp("gateway")), runtime)
        running.start()
        yield running
        running.stop()


@pytest.fixture
def running(shared: Running) -> Running:
    """The module's gateway with nothing noted yet."""
    shared.notes()
    shared.lines.clear()
    return shared


@pytest.fixture
def own(runtime: str, tmp_path: Path) -> Iterator[Running]:
    """A gateway for one test, which starts it."""
    with running_loop() as loop:
        running = Running(loop, copy_sources(tmp_path), runtime)
        yield running
        running.stop()
