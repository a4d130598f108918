"""`./okane keys`: list the keys that sign access tokens, and let a new one follow.

They are in the state folder of `./okane up`, or on AWS in a Secrets Manager secret (the private set) and an SSM parameter (the
public one). The public set is always written first: nothing may be signed that cannot be checked. Whoever is stopped between
the two leaves a key published that signs nothing; the next rotation takes it away again.
"""

import argparse
import fcntl
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from local import state
from local.keys import OVERLAP_SECONDS, Jwk, KeysError, private, public, rotate, signs_from
from local.owner import add_data_option
from local.state import StateError

CURRENT = "AWSCURRENT"
# A new private set has this label first, and becomes the current one only in the place of the one that it was made from.
NEXT = "OKANENEXT"
YEAR_SECONDS = 365 * 24 * 3600


class Store(Protocol):
    """Where the two sets are."""

    def read(self) -> list[Jwk]:
        """The private keys; none if there are none yet. Raises KeysError."""

    def published(self) -> list[Jwk]:
        """The public ones. Raises KeysError."""

    def replace(self, new: list[Jwk]) -> None:
        """Put these in the place of those that were read. Raises KeysError if somebody else has replaced them meanwhile."""


class Folder:
    """The state folder of `./okane up`, whether it runs or not. Whoever has it open is alone with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def alone(cls, folder: Path) -> Iterator["Folder"]:
        """Wait for whoever rotates the keys of this folder now. StateError if it has no keys."""
        if (folder / "secrets.json").exists():
            state.make_keys(folder, state.read_secrets(folder))  # it may be older than rotations are
        try:
            descriptor = os.open(folder / "keys", os.O_RDONLY)
        except OSError:
            raise StateError(f"{folder} has no keys yet: ./okane up makes them") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield cls(folder)
        finally:
            os.close(descriptor)

    def read(self) -> list[Jwk]:
        return state.read_keys(self._folder)

    def published(self) -> list[Jwk]:
        try:
            return _jwks((self._folder / "keys" / "public.json").read_text())
        except FileNotFoundError:
            return []

    def replace(self, new: list[Jwk]) -> None:
        state.write_keys(self._folder, new)


class Aws:
    """A secret with the private set and a parameter with the public one, by the credentials of this environment."""

    def __init__(self, secret: str, parameter: str) -> None:
        self._secret = secret
        self._parameter = parameter
        self._version = ""  # of the secret, when it was read; empty while it has no value

    def read(self) -> list[Jwk]:
        found = self._call("secretsmanager", "describe_secret", SecretId=self._secret)
        if not any(CURRENT in labels for labels in found.get("VersionIdsToStages", {}).values()):
            return []
        value = self._call("secretsmanager", "get_secret_value", SecretId=self._secret, VersionStage=CURRENT)
        self._version = value["VersionId"]
        return private(value.get("SecretString", ""))

    def published(self) -> list[Jwk]:
        found = self._call("ssm", "get_parameters", Names=[self._parameter])["Parameters"]
        return _jwks(found[0]["Value"]) if found else []

    def replace(self, new: list[Jwk]) -> None:
        self._publish(new)
        version = str(uuid.uuid4())
        put = {"SecretId": self._secret, "ClientRequestToken": version, "SecretString": _compact(new)}
        if not self._version:
            self._call("secretsmanager", "put_secret_value", **put, VersionStages=[CURRENT])
            return
        self._call("secretsmanager", "put_secret_value", **put, VersionStages=[NEXT])
        before, labels = self._version, {"SecretId": self._secret, "VersionStage": CURRENT}
        try:
            self._call(
                "secretsmanager",
                "update_secret_version_stage",
                **labels,
                MoveToVersionId=version,
                RemoveFromVersionId=before,
            )
        except KeysError:
            there = self.read()
            if self._version == before:
                raise
            self._publish(there)  # what somebody else has made of them is what signs
            raise KeysError("somebody else has rotated the keys just now; theirs are in force") from None

    def _publish(self, new: list[Jwk]) -> None:
        self._call(
            "ssm", "put_parameter", Name=self._parameter, Value=_compact(public(new)), Type="String", Overwrite=True
        )

    def _call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        import boto3
        import botocore.exceptions

        try:
            answer: dict[str, Any] = getattr(boto3.client(service), operation)(**arguments)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise KeysError(f"{service} {operation}: {' '.join(str(error).split())}") from error
        return answer


def main(arguments: list[str]) -> int:
    """The command `keys`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="./okane keys", description="List or rotate the keys of access tokens.")
    parser.add_argument("action", nargs="?", choices=("list", "rotate"), default="list")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--overlap", type=_seconds, default=OVERLAP_SECONDS, metavar="SECONDS", help="(%(default)s)")
    when.add_argument(
        "--at-once", action="store_true", help="the new key is the only one: every access token of before is refused"
    )
    parser.add_argument("--secret", help="on AWS: the secret with the private keys, its ARN or its name")
    parser.add_argument("--parameter", help="on AWS: the name of the SSM parameter with the public keys")
    add_data_option(parser)
    given = parser.parse_args(arguments)
    if bool(given.secret) != bool(given.parameter):
        parser.error("--secret and --parameter are needed together")
    if given.at_once and given.action == "list":
        parser.error("--at-once is for rotate")
    try:
        if given.secret:
            return _run(given, Aws(given.secret, given.parameter))
        with Folder.alone(given.data.absolute()) as store:
            return _run(given, store)
    except (KeysError, StateError, OSError) as error:
        print(f"okane: {error}", file=sys.stderr)
        return 1


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= YEAR_SECONDS):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds; --at-once is for none")
    return int(text)


def _run(given: argparse.Namespace, store: Store) -> int:
    now, found = int(time.time()), store.read()
    if given.action == "list":
        return _list(found, store, now, given.overlap)
    published = store.published()
    if not given.at_once:
        _require_pair(found, published)
    new = rotate(found, now, 0 if given.at_once else given.overlap)
    store.replace(new)
    key = new[-1]
    if len(new) > 1:
        print(f"{key['kid']} is published now, and signs from {_moment(signs_from(key))} on")
    else:
        print(
            f"{key['kid']} signs now; it is the only key"
            + (", and access tokens of before are refused" if found else "")
        )
    return 0


def _require_pair(found: list[Jwk], published: list[Jwk]) -> None:
    """Raises KeysError if keys are not published that should be: these may not be the two sets of one platform."""
    missing = {key["kid"] for key in found} - {key["kid"] for key in published}
    if missing or (published and not found):
        raise KeysError(
            "the public set is not that of these private keys: are both names right? "
            "rotate --at-once writes both anew, and no token before it counts"
        )


def _list(found: list[Jwk], store: Store, now: int, overlap: int) -> int:
    """One line a key, the oldest first; exit code 1 if one of them is not published."""
    published = {key["kid"] for key in store.published()}
    ordered = sorted(found, key=signs_from)
    due = [key for key in ordered if signs_from(key) <= now] or ordered[:1]
    for place, key in enumerate(ordered):
        if key is due[-1]:
            said = "signs" + (f" since {_moment(signs_from(key))}" if signs_from(key) else "")
        elif signs_from(key) > now:
            said = f"next, signs from {_moment(signs_from(key))} on"
        else:
            until = signs_from(ordered[place + 1]) + overlap
            said = f"published; the first rotation after {_moment(until)} drops it"
        print(f"{key['kid']}  {said}" + ("" if key["kid"] in published else "; NOT PUBLISHED"))
    if not found:
        print("there are no keys yet; rotate makes the first one")
    return 0 if {key["kid"] for key in found} <= published else 1


def _jwks(text: str) -> list[Jwk]:
    try:
        found: list[Jwk] = json.loads(text)["keys"]
        if all(isinstance(key["kid"], str) for key in found):
            return found
    except (ValueError, LookupError, TypeError):
        pass
    raise KeysError("what is published is not a JWKS: is its name right?")


def _compact(found: list[Jwk]) -> str:
    """As JSON without a blank: a parameter has room for 4096 characters."""
    return json.dumps({"keys": found}, separators=(",", ":"))


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
