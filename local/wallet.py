"""`./okane wallet`: an operator's switches on one wallet."""

import argparse
import sys

import psycopg

from local.owner import add_data_option, ask, connect, currency, handle
from local.state import StateError

FREEZES = {"none": (False, False), "debit": (True, False), "credit": (False, True), "both": (True, True)}


def main(arguments: list[str]) -> int:
    """Set what is asked for and show the switches. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="./okane wallet", description=__doc__)
    parser.add_argument("handle", type=handle, help="whose, e.g. @asha")
    parser.add_argument("currency", type=currency, help="e.g. INR")
    parser.add_argument(
        "--freeze", choices=FREEZES, help="refuse what would leave it (debit), come in (credit), both, none"
    )
    parser.add_argument("--receiving", choices=("yes", "no"), help="take credits without waiting for one another")
    add_data_option(parser)
    given = parser.parse_args(arguments)
    debit, credit = FREEZES[given.freeze] if given.freeze else (None, None)
    receiving = given.receiving == "yes" if given.receiving else None
    try:
        with connect(given.data) as connection:
            answer = ask(connection, "switch_wallet", given.handle, given.currency, debit, credit, receiving)
    except (StateError, psycopg.Error) as error:
        print(f"okane: {str(error).strip()}", file=sys.stderr)
        return 1
    if answer["outcome"] != "done":
        print(f"okane: @{given.handle} has no wallet in {given.currency}", file=sys.stderr)
        return 1
    wallet = answer["wallet"]
    frozen = next(word for word, pair in FREEZES.items() if pair == (wallet["debit_frozen"], wallet["credit_frozen"]))
    print(f"@{given.handle} {given.currency}: frozen for {frozen}, receiving {'yes' if wallet['receiving'] else 'no'}")
    return 0
