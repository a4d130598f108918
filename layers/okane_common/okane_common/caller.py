"""Who is asking, where from, and for how long one proof of that lasts."""

import ipaddress
import uuid
from typing import Any, NamedTuple

from okane_common.seals import Seal

ACCESS_SECONDS = 600  # the life of an access token, and so of whatever stands in for looking at its session
DEVICE_CHARACTERS = 200

_NETWORKS = Seal("source")


class Caller(NamedTuple):
    """A person and a session: proved by a signature, not yet by a live session."""

    person_id: uuid.UUID
    session_id: uuid.UUID


class Visitor(NamedTuple):
    """Somebody at the door. device: what their program calls itself. source: a keyed mark of their network, by which tries are
    counted without keeping addresses: an IPv4 address, or the /64 that an IPv6 subscriber has at least.
    """

    device: str
    source: str


def visitor(event: dict[str, Any]) -> Visitor:
    """Who sent an HTTP API event. The address is the one that connected to API Gateway: no header is believed."""
    address = ipaddress.ip_address(event["requestContext"]["http"]["sourceIp"])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    network = ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False)
    device: str = event["headers"].get("user-agent", "")
    return Visitor(device[:DEVICE_CHARACTERS], _NETWORKS.mark(str(network)).hex()[:32])
