"""The layer's audit in a test's own process: with a database of the test's, and on a connection that will be rolled back."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg import sql


@contextmanager
def layer_with(**variables: str) -> Iterator[None]:
    """Modules of the layer that are imported in here are fresh, and read these settings."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "okane_common"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "okane_common"]:
                del sys.modules[name]
            sys.modules.update(kept)


@contextmanager
def auditor(database_url: str) -> Iterator[ModuleType]:
    """The module `audit`, which calls the database of this URL."""
    with layer_with(DATABASE_URL=database_url):
        yield importlib.import_module("okane_common.audit")


@contextmanager
def calls_on(audit: ModuleType, connection: "psycopg.Connection[Any]") -> Iterator[None]:
    """The audit sees what this connection sees, also what is not committed."""

    def call(function: str, *arguments: Any) -> Any:
        given = sql.SQL(", ").join([sql.Placeholder()] * len(arguments))
        statement = sql.SQL("SELECT okane.{}({})").format(sql.Identifier(function), given)
        ((answer,),) = connection.execute(statement, arguments).fetchall()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit.database, "call", call)
        yield
