"""`./okane sessions`: how many sessions are live, and an operator's way to end them."""

import argparse
import sys

import psycopg

from local.owner import add_data_option, ask, connect, handle
from local.state import StateError


def main(arguments: list[str]) -> int:
    """Count or end the sessions of one person or of everybody. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="./okane sessions", description=__doc__)
    parser.add_argument("handle", type=handle, nargs="?", help="whose, e.g. @asha; everybody's without it")
    parser.add_argument("--end", action="store_true", help="end them: refused at once, on cached reads within a minute")
    add_data_option(parser)
    given = parser.parse_args(arguments)
    try:
        with connect(given.data) as connection:
            answer = ask(connection, "sessions_of", given.handle, given.end)
    except (StateError, psycopg.Error) as error:
        print(f"okane: {str(error).strip()}", file=sys.stderr)
        return 1
    if answer["outcome"] != "done":
        print(f"okane: nobody has the handle @{given.handle}", file=sys.stderr)
        return 1
    whose = f"@{given.handle}" if given.handle else "everybody"
    print(f"{whose}: {answer['sessions']} live sessions{', ended now' if given.end else ''}")
    return 0
