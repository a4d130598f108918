"""The database as its owner reaches it: what an operator's commands work on."""

import argparse
import os
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from local.state import StateError, read_endpoints

STATE = Path(__file__).resolve().parent.parent / ".okane"
CONNECT_SECONDS = 10


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """--data, as `./okane up` has it."""
    parser.add_argument("--data", type=Path, default=STATE, metavar="DIR", help="the state of the platform (.okane/)")


def owner_url(data: Path) -> str:
    """DATABASE_URL, else that of the platform that runs on this folder. StateError if there is neither."""
    named = os.environ.get("DATABASE_URL")
    if named:
        return named
    try:
        return read_endpoints(data).database_url
    except StateError as error:
        raise StateError(f"DATABASE_URL is not set, and {error}") from None


def connect(data: Path) -> "psycopg.Connection[tuple[Any, ...]]":
    """The owner's connection, on the schema okane. Raises StateError, psycopg.Error."""
    connection = psycopg.connect(owner_url(data), connect_timeout=CONNECT_SECONDS)
    connection.execute("SET search_path = okane")
    return connection


def ask(connection: "psycopg.Connection[tuple[Any, ...]]", function: str, *arguments: Any) -> dict[str, Any]:
    """Call one function of database/functions/80_operate.sql; its JSON."""
    given = sql.SQL(", ").join([sql.Placeholder()] * len(arguments))
    statement = sql.SQL("SELECT {}({})").format(sql.Identifier(function), given)
    ((found,),) = connection.execute(statement, arguments).fetchall()
    answer: dict[str, Any] = found
    return answer


def handle(text: str) -> str:
    """An argument that names a person: `@asha` or `asha`."""
    return text.removeprefix("@")


def currency(text: str) -> str:
    """An argument that names a currency. Raises argparse.ArgumentTypeError."""
    if len(text) != 3 or not text.isascii() or not text.isupper() or not text.isalpha():
        raise argparse.ArgumentTypeError(f"{text} is no currency; it is three capital letters, such as INR")
    return text
