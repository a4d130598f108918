"""`./okane migrate`: the present schema for DATABASE_URL, or for the database of the running platform."""

import argparse
import os
import sys
from pathlib import Path

import psycopg

from database.migrate import MigrationError, migrate
from local.state import StateError, read_endpoints

STATE = Path(__file__).resolve().parent.parent / ".okane"


def main(arguments: list[str]) -> int:
    """Apply what is missing and say what it was. Returns the exit code."""
    argparse.ArgumentParser(prog="./okane migrate", description=__doc__).parse_args(arguments)
    try:
        applied = migrate(os.environ.get("DATABASE_URL") or read_endpoints(STATE).database_url)
    except StateError as error:
        print(f"okane: DATABASE_URL is not set, and {error}", file=sys.stderr)
        return 1
    except (MigrationError, psycopg.Error) as error:
        print(f"okane: {str(error).strip()}", file=sys.stderr)
        return 1
    print("\n".join([*(f"applied {name}" for name in applied), "the functions are those of database/functions/"]))
    return 0
