"""Keyed fingerprints (HMAC-SHA-256) under keys derived from OKANE_SECRET, one key for each purpose."""

import base64
import hashlib
import hmac

from okane_common import settings

SECRET_BYTES = 32  # at least


def _load_root() -> bytes:
    try:
        root = base64.b64decode(settings.secret("OKANE_SECRET").reveal(), validate=True)
    except ValueError:
        raise settings.SettingError("OKANE_SECRET is not base64") from None
    if len(root) < SECRET_BYTES:
        raise settings.SettingError(f"OKANE_SECRET is shorter than {SECRET_BYTES} bytes")
    return root


_ROOT = _load_root()


class Seal:
    """Marks bytes as ours for one purpose. A seal of one purpose never passes for another's."""

    def __init__(self, purpose: str) -> None:
        self._key = hmac.digest(_ROOT, purpose.encode(), "sha256")

    def mark(self, *parts: str) -> bytes:
        """32 bytes over the parts; their boundaries count."""
        return hmac.digest(self._key, b"".join(_framed(part) for part in parts), "sha256")

    def fits(self, mark: bytes, *parts: str) -> bool:
        """Whether `mark` (at least 16 bytes of it) is what `mark()` gives for the parts. Takes constant time."""
        return len(mark) >= 16 and hmac.compare_digest(mark, self.mark(*parts)[: len(mark)])


def _framed(part: str) -> bytes:
    encoded = part.encode()
    return len(encoded).to_bytes(4) + encoded


def fingerprint(secret: bytes) -> bytes:
    """SHA-256, for what has enough entropy of its own to be kept as a plain hash (256-bit tokens, whole bodies)."""
    return hashlib.sha256(secret).digest()
