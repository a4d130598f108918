"""Passwords: argon2id hashes (RFC 9106), and the ones too common to accept.

m = 19 MiB, t = 2, p = 1 is OWASP's first choice; 30 ms of CPU. The libraries are imported where they are used, since only
four routes need them.
"""

import functools
import re
import unicodedata
from typing import Any

from okane_common.errors import Refusal

MIN_CHARACTERS = 8
MAX_CHARACTERS = 128
MEMORY_KIB = 19 * 1024
PASSES = 2
LANES = 1
PRODUCT = "okane"
WORD_LETTERS = 3  # a shorter name says nothing about a password
AROUND = 8

_NO_LETTERS = re.compile(r"[\W\d_]+")

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


def hash_new(password: str, pointer: str, *words: str) -> str:
    """The hash of a password that somebody chooses. pointer: where it stands in the body. words: their e-mail and name.

    Raises Refusal(validation_failed) for a common one. There are no other rules (NIST SP 800-63B, 3.1.1.2).
    """
    if too_common(password, *words):
        raise Refusal(
            "validation_failed",
            "The password is one of the most used ones, or easily guessed.",
            errors=[{"pointer": pointer, "code": "password_common", "detail": "Choose a less common password."}],
        )
    return hash_password(password)


def too_common(password: str, *words: str) -> bool:
    """Whether the password, whatever its case, is one of the 30,000 most used that zxcvbn knows from leaks, or is made of one
    of the words alone: an e-mail address, the name in it, a name or a part of it, our own name, with at most AROUND digits and
    signs. A longer one that has such a word in it is nobody's business.
    """
    plain = _plain(password)
    own = {PRODUCT}
    for word in map(_plain, words):
        local = word.partition("@")[0]
        own |= {word, local, _letters(word), _letters(local), *_NO_LETTERS.split(local)}
    letters = _letters(plain)
    made_of_one = len(letters) >= WORD_LETTERS and len(plain) - len(letters) <= AROUND and letters in own
    return plain in _common() or plain in own or made_of_one


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _letters(text: str) -> str:
    return _NO_LETTERS.sub("", text)


@functools.cache
def _common() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
