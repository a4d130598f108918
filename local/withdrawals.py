"""`./okane withdrawals`: those that no bank has ended yet. Their amounts stay locked until one does."""

import argparse
import sys

import psycopg

from local.owner import add_data_option, ask, connect
from local.state import StateError


def main(arguments: list[str]) -> int:
    """List them, the oldest first. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="./okane withdrawals", description=__doc__)
    add_data_option(parser)
    try:
        with connect(parser.parse_args(arguments).data) as connection:
            found = ask(connection, "open_withdrawals")["withdrawals"]
    except (StateError, psycopg.Error) as error:
        print(f"okane: {str(error).strip()}", file=sys.stderr)
        return 1
    for one in found:
        money = f"{one['amount']} {one['currency']}"
        print(f"{one['id']}  since {one['since']}  {one['bank']}  {money}  @{one['handle']}  account {one['account']}")
    print(f"{len(found)} open", file=sys.stderr)
    return 0
