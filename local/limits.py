"""`./okane limits`: what may be paid out of a person's wallet, per currency. What is not set is unlimited."""

import argparse
import sys
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Json

from local.owner import add_data_option, connect, currency
from local.state import StateError

MOST = 2**53 - 1
LIMITS = {
    "payment": "one payment",
    "day_amount": "a day of UTC, in minor units",
    "day_count": "a day of UTC, payments",
    "month_amount": "thirty days, today included, in minor units",
    "month_count": "thirty days, today included, payments",
    "new_recipient": "the first payment to somebody",
    "new_account": "a day, while the person's account is new",
    "new_account_days": "for how many days an account is new",
}
DAYS = 36500  # of new_account_days, at most


def main(arguments: list[str]) -> int:
    """Set what is asked for and show what holds. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="./okane limits",
        description=f"{__doc__} Amounts are in minor units; `none` takes one limit away; what is not named stays.",
    )
    parser.add_argument("currency", type=currency, nargs="?", help="e.g. INR; all of them without it")
    for name, meaning in LIMITS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=_cap, dest=name, metavar="N", help=meaning, default=argparse.SUPPRESS
        )
    parser.add_argument("--none", action="store_true", help="take all limits of the currency away")
    add_data_option(parser)
    given = parser.parse_args(arguments)
    named = {name: cap for name, cap in vars(given).items() if name in LIMITS}
    if (named or given.none) and not given.currency:
        parser.error("name the currency whose limits are to change")
    if named and given.none:
        parser.error("--none takes all limits away: name no other beside it")
    if (named.get("new_account_days") or 0) > DAYS:
        parser.error(f"--new-account-days is {DAYS} at most")
    try:
        with connect(given.data) as connection:
            rows = _rows(connection, given.currency)
            if named or given.none:
                kept = {} if given.none else rows.get(given.currency, {})
                row = {**dict.fromkeys(LIMITS), **kept, **named, "currency": given.currency}
                if (row["new_account"] is None) != (row["new_account_days"] is None):
                    parser.error("--new-account and --new-account-days go together")
                connection.execute("SELECT set_limits(json_populate_record(NULL::limits, %s))", [Json(row)])
                rows = _rows(connection, given.currency)
    except (StateError, psycopg.Error) as error:
        print(f"okane: {str(error).strip()}", file=sys.stderr)
        return 1
    for name in [given.currency] if given.currency else rows:
        set_ = [f"{limit} {cap}" for limit, cap in rows.get(name, {}).items() if limit in LIMITS and cap is not None]
        print(f"{name}: {', '.join(set_) or 'no limits'}")
    return 0


def _cap(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isascii() or not text.isdecimal() or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text} is neither a whole number up to {MOST} nor none")
    return int(text)


def _rows(connection: "psycopg.Connection[Any]", name: str | None) -> dict[str, dict[str, Any]]:
    """The limits that are set, by currency; held still until this transaction ends."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT * FROM limits WHERE %s::text IS NULL OR currency = %s ORDER BY currency FOR UPDATE", [name, name]
        )
        return {row["currency"]: row for row in cursor.fetchall()}
