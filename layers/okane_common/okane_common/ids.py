"""Names for things: a transfer's id from its key, and random ids for the rest."""

import hashlib
import uuid


def transfer_id(person_id: uuid.UUID, route: str, key: str) -> uuid.UUID:
    """The id of the transfer that `key` names for this person on this route (`"POST /v1/transfers"`).

    The first 16 bytes of SHA-256 over the three, marked as UUID version 8 (RFC 9562, 5.8): the primary key of the
    transfer is the idempotency record. The separator cannot occur in any part.
    """
    digest = hashlib.sha256(f"{person_id}\n{route}\n{key}".encode()).digest()
    value = int.from_bytes(digest[:16])
    value = value & ~(0xF << 76) | (8 << 76)
    value = value & ~(0x3 << 62) | (2 << 62)
    return uuid.UUID(int=value)
