"""Passwords: argon2id hashes (RFC 9106), and the ones too common to accept.

m = 19 MiB, t = 2, p = 1 is OWASP's first choice; 30 ms of CPU. The libraries are imported where they are used, since only
four routes need them.
"""

import functools
import unicodedata
from typing import Any

MIN_CHARACTERS = 8
MAX_CHARACTERS = 128
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1

# The hash of a random password that nobody kept: an unknown address is checked against it and takes as long as a known one.
NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$sQEdfB1jWL7h/xXf4aZLOw$YmMUphUyqOS01NhgM+4V+0L4tKKlxxHJW8LNcx6vQEQ"


@functools.cache
def _hasher() -> Any:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)


def hash_password(password: str) -> str:
    """The argon2id hash of the exact bytes, in PHC form."""
    return str(_hasher().hash(password))


def matches(password: str, password_hash: str | None) -> bool:
    """Whether the password is the one behind the hash. None takes the same time and never matches."""
    from argon2.exceptions import VerificationError

    try:
        _hasher().verify(password_hash or NOBODY, password)
    except VerificationError:
        return False
    return password_hash is not None


def too_common(password: str) -> bool:
    """Whether the password, whatever its case, is one of the 30,000 that zxcvbn knows to be the most used."""
    return unicodedata.normalize("NFKC", password).lower() in _common()


@functools.cache
def _common() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
