"""Modules of the layer imported anew, with settings of a test's own: they read them while they are imported."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def imported(name: str, variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """okane_common.<name>, and all of the layer that it imports; afterwards the ones of before are in their places again."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    before = _take_out()
    try:
        yield importlib.import_module(f"okane_common.{name}")
    finally:
        _take_out()
        sys.modules.update(before)


def _take_out() -> dict[str, Any]:
    """The modules of the layer, which are not imported any more."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "okane_common"}
