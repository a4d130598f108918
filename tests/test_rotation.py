"""Keys of access tokens that follow one another, on a platform that runs, and what a function reads of them and when."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest

from local import keys, keys_command, state
from tests.support.api import Person
from tests.support.contract import CheckedApi, refused
from tests.support.fresh import imported
from tests.support.platform import Database, Services, empty_redis, start_platform, stop_platform, wait_for_endpoints

OVERLAP = 3  # the functions of a local platform read the keys again after one second
WAIT_SECONDS = 30
NOWHERE = "00000000-0000-8000-8000-000000000000"
CHECKING = {"/v1/me": 200, "/v1/wallets": 200, f"/v1/transfers/{NOWHERE}": 404}  # auth, wallet, transfer


class Running:
    """A platform with a state folder of its own, since its keys change, and a client of it."""

    def __init__(self, folder: Path, services: Services, database: Database) -> None:
        self.folder, self._services, self._database = folder, services, database
        self.start("0")

    def start(self, port: str) -> None:
        self._process = start_platform(
            self.folder,
            *("--no-people", "--no-schedule", "--port", port),
            DATABASE_URL=self._database.url,
            REDIS_URL=self._services.redis_url,
            **self._services.openid,
        )
        self.api = CheckedApi(wait_for_endpoints(self.folder, self._process))

    def stop(self) -> None:
        self.api.close()
        stop_platform(self._process)

    def rotate(self, *options: object) -> int:
        """`./okane keys rotate`; the exit code."""
        return keys_command.main(["rotate", "--data", str(self.folder), *map(str, options)])

    def published(self) -> list[str]:
        """The names of the keys that the API shows."""
        answer = self.api.call("GET", "/.well-known/jwks.json")
        assert not {"d", "p", "q", "dp", "dq", "qi"} & {name for key in answer.json()["keys"] for name in key}
        return [key["kid"] for key in answer.json()["keys"]]

    def opens(self, token: str) -> bool:
        """Whether every function takes the token. What is refused is refused as token_invalid."""
        answers = [(self.api.call("GET", path, token=token), right) for path, right in CHECKING.items()]
        for answer, right in answers:
            if answer.status_code != right:
                assert refused(answer, 401, "token_invalid")
        return all(bool(answer.status_code == right) for answer, right in answers)

    def refused_everywhere(self, token: str) -> bool:
        return not any(self.api.call("GET", path, token=token).status_code != 401 for path in CHECKING)


@pytest.fixture(scope="module")
def running(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On a folder of before there were rotations: it has secrets and no keys."""
    folder = tmp_path_factory.mktemp("rotating")
    shutil.copy(services.state / "secrets.json", folder / "secrets.json")
    empty_redis(services.redis_url)
    platform = Running(folder, services, database)
    yield platform
    platform.stop()


@pytest.fixture(scope="module")
def asha(running: Running) -> Person:
    return running.api.sign_up("Asha")


def renew(running: Running, person: Person) -> str:
    """A new access token, and its key's name."""
    answer = running.api.call("POST", "/v1/auth/refresh", json={"refresh_token": person.refresh_token})
    assert answer.status_code == 200, answer.text
    person.token, person.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
    return str(jwt.get_unverified_header(person.token)["kid"])


def until(what: Callable[[], bool]) -> None:
    """Return once it is so; fails if that takes for ever."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.1)


def test_a_folder_without_keys_goes_on_with_its_first_key(running: Running, asha: Person, services: Services) -> None:
    first = services.secrets.signing_key["kid"]
    assert jwt.get_unverified_header(asha.token)["kid"] == first
    assert running.published() == [first]
    assert [key["kid"] for key in state.read_keys(running.folder)] == [first]


def test_one_key_follows_another_and_no_valid_token_is_refused(running: Running, asha: Person) -> None:
    old = renew(running, asha)
    old_token = asha.token
    assert running.rotate("--overlap", OVERLAP) == 0
    new = state.read_keys(running.folder)[-1]
    assert running.rotate("--overlap", OVERLAP) == 1, "one at a time"

    def has_followed() -> bool:
        published = running.published()
        kid = renew(running, asha)
        issued = jwt.decode(asha.token, options={"verify_signature": False})["iat"]
        assert kid in published, "it was there for everybody before anything was signed with it"
        assert kid == (old if issued < new["nbf"] else kid)
        assert running.opens(asha.token)
        assert running.opens(old_token)
        return kid == str(new["kid"])

    until(has_followed)
    assert running.published() == [old, new["kid"]]
    assert running.opens(old_token), "signed before, and valid for its ten minutes"
    until(lambda: time.time() >= new["nbf"] + OVERLAP)
    assert running.rotate("--overlap", OVERLAP) == 0
    third = state.read_keys(running.folder)[-1]["kid"]
    until(lambda: running.published() == [new["kid"], third])
    until(lambda: running.refused_everywhere(old_token))
    assert running.opens(old_token) is False, "as token_invalid"
    assert running.opens(asha.token)


def test_the_keys_outlive_a_restart_and_are_rotated_while_nothing_runs(running: Running, asha: Person) -> None:
    last = state.read_keys(running.folder)[-1]
    until(lambda: time.time() >= keys.signs_from(last))
    before = running.published()
    running.stop()
    try:
        assert running.rotate("--overlap", 3600) == 0
    finally:
        running.start(str(urlsplit(running.api.endpoints.api).port))  # its tokens name it as their issuer
    files = [key["kid"] for key in state.read_keys(running.folder)]
    assert running.published() == files == [*before, files[-1]]
    assert running.opens(asha.token)
    assert renew(running, asha) == before[-1]


def test_at_once_while_it_runs(running: Running, asha: Person) -> None:
    renew(running, asha)
    old_token = asha.token
    assert running.rotate("--at-once") == 0
    [only] = [key["kid"] for key in state.read_keys(running.folder)]
    until(lambda: running.published() == [only])
    until(lambda: running.refused_everywhere(old_token))
    until(lambda: renew(running, asha) == only)
    until(lambda: running.opens(asha.token))


def test_broken_or_missing_keys_change_nothing_for_functions_that_run(running: Running, asha: Person) -> None:
    until(lambda: running.opens(asha.token))
    kid, token, log = renew(running, asha), asha.token, running.folder / "logs" / "functions.log"
    signing, public = (running.folder / "keys" / name for name in ("signing.json", "public.json"))
    kept = {path: path.read_text() for path in (signing, public)}
    private = json.loads(kept[signing])["keys"][0]
    without_private = json.dumps({"keys": keys.public([private])})
    broken = ["", "{", '{"keys": []}', "[]", kept[signing][:-5], without_private.replace('"n": "', '"n": "!'), None]

    def complaints(since: int) -> set[tuple[str, str]]:
        """Which functions have said that they could not read which set."""
        return set(re.findall(r'^(\w+): .*"keys not read".*"said":"(TOKEN_[A-Z]+)', log.read_text()[since:], re.M))

    try:
        for content in broken:
            before = len(log.read_text())
            for path in kept:
                path.unlink(missing_ok=True) if content is None else path.write_text(content)

            def goes_on(before: int = before) -> bool:
                assert running.opens(token)
                assert running.published() == [kid]
                assert renew(running, asha) == kid
                return len(complaints(before)) == 4  # of auth two: it reads both sets

            until(goes_on)
    finally:
        for path, text in kept.items():
            path.write_text(text)
    said = log.read_text()
    for secret in (private["d"], private["p"], private["d"][:40], private["n"][:40]):
        assert secret not in said
    assert running.rotate("--at-once") == 0
    until(lambda: running.published() != [kid])


# In one process: what is read, and when.


class Clock:
    """Both clocks of the module under test."""

    def __init__(self) -> None:
        self.monotonic_seconds, self.seconds = 1000.0, 1_800_000_000.0

    def monotonic(self) -> float:
        return self.monotonic_seconds

    def time(self) -> float:
        return self.seconds


class Function:
    """okane_common.tokens as a function has it, with its settings, its clocks and a count of what it reads."""

    def __init__(self, module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self._folder, self.clock, self.read = module, folder, Clock(), 0
        json_object = module.settings.json_object

        def counted(name: str) -> Any:
            self.read += 1
            return json_object(name)

        monkeypatch.setattr(module.settings, "json_object", counted)
        monkeypatch.setattr(module, "time", self.clock)
        for each in (module._public, module._signing):
            each._read_at = self.clock.monotonic(), self.clock.time()

    def write(self, found: list[keys.Jwk]) -> None:
        state.write_keys(self._folder, found)

    def kid(self) -> str:
        """The key that a token is signed with now."""
        caller = self.module.Caller(NOWHERE, NOWHERE)
        return str(jwt.get_unverified_header(self.module.sign(caller))["kid"])


@pytest.fixture(scope="module")
def pair() -> list[keys.Jwk]:
    return [keys.new_key(), keys.new_key()]


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: list[keys.Jwk]) -> Iterator[Function]:
    """A fresh one, with the first key of the pair."""
    (tmp_path / "keys").mkdir()
    state.write_keys(tmp_path, pair[:1])
    variables = {
        "TOKEN_ISSUER": "https://api.example.com",
        "TOKEN_AUDIENCE": "okane",
        "TOKEN_PUBLIC_KEYS": f"file:{tmp_path / 'keys' / 'public.json'}",
        "TOKEN_SIGNING_KEYS": f"file:{tmp_path / 'keys' / 'signing.json'}",
        "TOKEN_KEYS_SECONDS": "1800",
        "OKANE_SECRET": "a" * 44,
    }
    with imported("tokens", variables, monkeypatch) as module:
        module.can_sign()
        yield Function(module, tmp_path, monkeypatch)


def test_a_name_that_nobody_knows_reads_nothing(function: Function, pair: list[keys.Jwk]) -> None:
    """Not even when the key is there by now: only age makes a function read, whatever is sent to it."""
    function.write(pair)
    unknown = jwt.encode({}, "x" * 32, algorithm="HS256", headers={"kid": pair[1]["kid"], "typ": "at+jwt"})
    for token in [unknown, "x", "a.b.c"] * 20:
        with pytest.raises(function.module.Refusal):
            function.module.verify(token)
    assert function.read == 0
    function.clock.monotonic_seconds += 1801
    for _ in range(20):
        with pytest.raises(function.module.Refusal):
            function.module.verify(unknown)
    assert function.read == 1
    assert [key["kid"] for key in function.module.public_jwks()["keys"]] == [key["kid"] for key in pair]


def test_keys_are_read_again_by_either_clock(function: Function) -> None:
    """One sleeps with a snapshot that SnapStart restores days later; the other may be set back."""
    for clock, seconds, reads in (
        ("monotonic_seconds", 1800, 0),
        ("monotonic_seconds", 1, 1),
        ("seconds", 1799, 0),
        ("seconds", 2, 1),
        ("seconds", -5000, 1),
        ("seconds", 10**8, 1),
        ("seconds", 0, 0),
    ):
        before = function.read
        setattr(function.clock, clock, getattr(function.clock, clock) + seconds)
        function.module.public_jwks()
        assert function.read == before + reads, (clock, seconds)


def test_keys_that_cannot_be_read_are_tried_again_later_only(function: Function, tmp_path: Path) -> None:
    (tmp_path / "keys" / "public.json").unlink()
    for minutes, reads in ((0, 0), (31, 1), (31, 2)):
        function.clock.monotonic_seconds += minutes * 60
        for _ in range(5):
            function.module.public_jwks()
        assert function.read == reads


def test_the_newest_key_whose_time_has_come_signs(function: Function, pair: list[keys.Jwk]) -> None:
    now = int(function.clock.time())
    first, second = pair
    for found, kid in (
        ([first, {**second, "nbf": now}], second["kid"]),
        ([first, {**second, "nbf": now + 1}], first["kid"]),
        ([{**second, "nbf": now - 1}, first], second["kid"]),
        ([{**first, "nbf": now - 9}, {**second, "nbf": now - 9}], second["kid"]),
        ([second, first], first["kid"]),
        # A clock that was set back knows no key whose time has come.
        ([{**first, "nbf": now + 50}, {**second, "nbf": now + 90}], first["kid"]),
    ):
        function.write(found)
        function.clock.monotonic_seconds += 1801
        assert function.kid() == kid


@pytest.mark.parametrize(
    "content", ['{"keys": []}', "{}", '{"keys": 1}', '{"keys": [{"kid": "a", "d": "tells-nobody"}]}', "public"]
)
def test_a_function_does_not_start_without_a_key_to_sign_with(
    function: Function, tmp_path: Path, pair: list[keys.Jwk], content: str
) -> None:
    text = json.dumps({"keys": keys.public(pair)}) if content == "public" else content
    (tmp_path / "keys" / "signing.json").write_text(text)
    with pytest.raises(function.module.settings.SettingError, match=r"^TOKEN_SIGNING_KEYS ") as error:
        function.module.can_sign()
    assert "tells-nobody" not in str(error.value)
