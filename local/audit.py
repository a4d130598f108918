"""`./okane audit`: add up the books of DATABASE_URL (the owner's), or of the running platform, and say what differs.

Exit 0: the books are right. 1: they differ. 2: it could not be found out.
"""

import argparse
import os
import sys
from typing import Any

from local.owner import add_data_option, owner_url
from local.state import StateError


def main(arguments: list[str]) -> int:
    """Audit, write the result into the table audits, and print it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="./okane audit", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--full", dest="scope", action="store_const", const="full", default="full", help="everything")
    which.add_argument("--recent", dest="scope", action="store_const", const="recent", help="what is new")
    add_data_option(parser)
    given = parser.parse_args(arguments)
    try:
        os.environ["DATABASE_URL"] = owner_url(given.data)
        # Only now: the layer reads its settings while it is imported.
        from okane_common import audit, database
        from okane_common.settings import SettingError
    except StateError as error:
        print(f"okane: {error}", file=sys.stderr)
        return 2
    try:
        found = audit.run_by_hand(given.scope)
    except (database.Unavailable, database.DatabaseBug, SettingError) as error:
        print(f"okane: the audit could not be made: {error}", file=sys.stderr)
        return 2
    for difference in found.differences:
        print(_line(difference))
    if found.total > len(found.differences):
        print(f"and {found.total - len(found.differences)} more")
    checked = ", ".join(f"{number} {what}" for what, number in found.checked.items())
    print(f"{found.scope} audit of {checked}: {found.total or 'no'} difference{'' if found.total == 1 else 's'}")
    return 1 if found.total else 0


def _line(difference: dict[str, Any]) -> str:
    where = [f"{what} {difference[what]}" for what in ("wallet", "owner", "transfer") if difference[what] is not None]
    about = f" ({', '.join(where)})" if where else ""
    return f"{difference['check']}{about}: said {difference['said']}, found {difference['found']}"
