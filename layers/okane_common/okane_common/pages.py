"""Pages: sealed cursors, and how a page looks.

A cursor holds a version, where its page has stopped, and a seal over that, its owner, its list and its filters.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from okane_common.errors import Refusal
from okane_common.seals import Seal

FIRST = 2**63 - 1  # below this version lies everything
DEFAULT_LIMIT = 25
MAX_LIMIT = 100
MARK_BYTES = 16

_SEAL = Seal("cursor")


def read_cursor(cursor: str | None, owner: str, filters: Mapping[str, str | None], first: int = FIRST) -> int:
    """The version to go on from; without a cursor, `first`.

    Raises Refusal(cursor_invalid) unless the cursor was made for this owner and filters.
    """
    if cursor is None:
        return first
    try:
        raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    position, mark = raw[:8], raw[8:]
    if len(raw) != 8 + MARK_BYTES or not _SEAL.fits(mark, position.hex(), owner, _words(filters)):
        raise Refusal("cursor_invalid", "Take next_cursor from the page before, with the same filters.")
    return int.from_bytes(position)


def make_cursor(version: int, owner: str, filters: Mapping[str, str | None]) -> str:
    """What `read_cursor` gives `version` for, to the same owner with the same filters."""
    position = version.to_bytes(8)
    mark = _SEAL.mark(position.hex(), owner, _words(filters))[:MARK_BYTES]
    return base64.urlsafe_b64encode(position + mark).decode()


def make_page(page: Mapping[str, Any], owner: str, filters: Mapping[str, str | None]) -> dict[str, object]:
    """`{"data", "has_more", "next_cursor"}` from `{"data", "has_more", "last_seq"}` as the database gives it."""
    cursor = make_cursor(int(page["last_seq"]), owner, filters) if page["has_more"] else None
    return {"data": page["data"], "has_more": page["has_more"], "next_cursor": cursor}


def _words(filters: Mapping[str, str | None]) -> str:
    return "&".join(f"{name}={value}" for name, value in sorted(filters.items()) if value is not None)
