"""The state folder of `./okane up`: who holds it, its secrets, and where the running platform is.

.okane/                 0700
  secrets.json          0600, made once; the data of postgres/ can only be opened with it
  endpoints.json        0600, only while everything runs
  up.lock               held by the running `up`, holds its URL
  keys/                 signing.json and public.json: the key sets that the functions read (see keys.py)
  postgres/ valkey/ logs/
"""

import base64
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Self

from local.keys import Jwk, KeysError, new_key, private, public

BANKS = ("hdfc", "axis", "icici")
PEOPLE = ("asha", "ravi")
FORGOTTEN = ("endpoints.json", "secrets.json", "keys", "postgres", "valkey", "logs")


class StateError(Exception):
    """The folder cannot be used; the message says why."""


@dataclass(frozen=True)
class Secrets:
    """Everything secret on this machine; made once, kept with the data."""

    postgres_password: str = field(repr=False)
    app_password: str = field(repr=False)
    redis_token: str = field(repr=False)
    okane_secret: str = field(repr=False)  # base64 of 32 bytes
    signing_key: Jwk = field(repr=False)  # the first private RSA key, with its kid
    bank_secrets: dict[str, list[str]] = field(repr=False)
    people: dict[str, str] = field(repr=False)  # passwords of the demo people

    @classmethod
    def make(cls) -> Self:
        """New ones."""
        return cls(
            postgres_password=secrets.token_urlsafe(24),
            app_password=secrets.token_urlsafe(24),
            redis_token=secrets.token_urlsafe(24),
            okane_secret=base64.b64encode(secrets.token_bytes(32)).decode(),
            signing_key=new_key(),
            bank_secrets={bank: ["whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()] for bank in BANKS},
            people={name: f"{name}-{secrets.token_urlsafe(9)}" for name in PEOPLE},
        )

    def public_keys(self) -> str:
        """The JWKS that anybody may see, before any rotation, as JSON."""
        return json.dumps({"keys": public([self.signing_key])})

    def signing_keys(self) -> str:
        """The JWKS that signs, before any rotation, as JSON."""
        return json.dumps({"keys": [self.signing_key]})


@dataclass(frozen=True)
class Endpoints:
    """Where the parts of a running platform are, for tests and tools."""

    api: str
    bank: str
    mailbox: str
    provider: str
    database_url: str = field(repr=False)  # the owner's
    redis_rest_url: str
    redis_rest_token: str = field(repr=False)
    bank_secrets: dict[str, list[str]] = field(repr=False)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only `up` on this folder. StateError, with the other's URL, if there is one already."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StateError(f"{folder} cannot be used: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = lock.read(200).strip() or "it is still starting"
            raise StateError(f"OKANE is already running on {folder}: {where}") from None
        lock.truncate(0)
        try:
            yield
        finally:
            lock.truncate(0)


def forget(folder: Path) -> None:
    """Remove all data; call it while holding the folder."""
    for name in FORGOTTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_secrets(folder: Path) -> Secrets:
    """The secrets of the folder, made now if there are none. StateError if the file is damaged."""
    path = folder / "secrets.json"
    if not path.exists():
        made = Secrets.make()
        write(path, asdict(made))
        return made
    try:
        found = json.loads(path.read_text())
        return Secrets(**{entry.name: found[entry.name] for entry in fields(Secrets)})
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged ({error!r}); `./okane up --fresh` starts over without it") from None


def make_keys(folder: Path, kept: Secrets) -> None:
    """The key sets that the functions read, from the first key, unless they are there already."""
    (folder / "keys").mkdir(mode=0o700, exist_ok=True)
    if not (folder / "keys" / "signing.json").exists():
        write_keys(folder, [kept.signing_key])


def read_keys(folder: Path) -> list[Jwk]:
    """The private keys. StateError if there are none, or the file is damaged."""
    path = folder / "keys" / "signing.json"
    try:
        return private(path.read_text())
    except FileNotFoundError:
        raise StateError(f"{folder} has no keys yet: ./okane up makes them") from None
    except KeysError as error:
        raise StateError(
            f"{path} is damaged ({error}); without {path.parent}, ./okane up begins with the first key again"
        ) from None


def write_keys(folder: Path, keys: list[Jwk]) -> None:
    """Put these in the place of the ones before; the public ones first, since nothing may be signed that cannot be checked."""
    write(folder / "keys" / "public.json", {"keys": public(keys)})
    write(folder / "keys" / "signing.json", {"keys": keys})


def publish(folder: Path, endpoints: Endpoints) -> None:
    """Say where everything is: endpoints.json for programs, the lock for a second `up`."""
    write(folder / "endpoints.json", asdict(endpoints))
    (folder / "up.lock").write_text(endpoints.api + "\n")


def withdraw(folder: Path) -> None:
    """Take back what publish() said."""
    (folder / "endpoints.json").unlink(missing_ok=True)


def read_endpoints(folder: Path) -> Endpoints:
    """Where the running platform is. StateError if none runs."""
    try:
        return Endpoints(**json.loads((folder / "endpoints.json").read_text()))
    except FileNotFoundError:
        raise StateError(f"no platform is running on {folder}") from None


def write(path: Path, value: object) -> None:
    """All or nothing, and readable by its owner only from the first byte on."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
