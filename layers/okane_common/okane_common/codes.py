"""Six-digit codes that are mailed: short enough to type, so short-lived, counted, and kept only under a key."""

import secrets

from okane_common.seals import Seal

CODE_SECONDS = 10 * 60


class Purpose:
    """Codes of one purpose: one of another does not fit."""

    def __init__(self, name: str) -> None:
        self._seal = Seal(f"{name} code")

    def mark(self, email: str, code: str) -> bytes:
        """What is kept of a code. Keyed, since six digits alone could be tried out against a stolen hash."""
        return self._seal.mark(email, code)


def new() -> str:
    """A code that nobody can foresee."""
    return f"{secrets.randbelow(1_000_000):06}"
