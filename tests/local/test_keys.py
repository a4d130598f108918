"""`./okane keys`: rotation by the clock, in the state folder and on AWS (moto in place of it)."""

import fcntl
import json
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from moto import mock_aws

from local import keys, keys_command, state
from local.keys import OVERLAP_SECONDS, Jwk, KeysError

SECRET = "okane/token-signing-keys"
PARAMETER = "/okane/token-public-keys"
NOW = 1_800_000_000
REAL_KEY = keys.new_key()
PRIVATE = ("d", "p", "q", "dp", "dq", "qi")


def kids(found: list[Jwk]) -> list[str]:
    return [key["kid"] for key in found]


def fake(name: str, **members: Any) -> Jwk:
    """A key as far as rotation looks at it: a real one takes a tenth of a second."""
    return {
        "kty": "RSA",
        "kid": name,
        "use": "sig",
        "alg": "RS256",
        "n": "bg",
        "e": "AQAB",
        "d": "tells-nobody",
        **members,
    }


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys are named k1, k2 ..."""
    count = iter(range(1, 1000))

    def new_key(not_before: int = 0) -> Jwk:
        return fake(f"k{next(count)}", **({"nbf": not_before} if not_before else {}))

    monkeypatch.setattr(keys, "new_key", new_key)


def test_the_first_key_signs_at_once() -> None:
    [first] = keys.rotate([], NOW, 100)
    assert keys.signs_from(first) == 0, "whatever the clock says of whoever signs"


def test_a_new_key_waits_and_the_one_before_stays_until_its_tokens_are_past() -> None:
    found = keys.rotate([fake("a")], NOW, 100)
    assert [(key["kid"], keys.signs_from(key)) for key in found] == [("a", 0), ("k1", NOW + 100)]
    with pytest.raises(KeysError, match=r"^the key k1 is published and has not begun to sign; rotate after it has$"):
        keys.rotate(found, NOW + 99, 100)
    # k1 signs from now on; tokens of a are around for the overlap at most.
    assert kids(keys.rotate(found, NOW + 100, 100)) == ["a", "k1", "k2"]
    assert kids(keys.rotate(found, NOW + 199, 100)) == ["a", "k1", "k3"]
    assert kids(keys.rotate(found, NOW + 200, 100)) == ["k1", "k4"]
    assert kids(keys.rotate(found[::-1], NOW + 200, 100)) == ["k1", "k5"], "the order in the file says nothing"


def test_the_key_that_signs_is_never_dropped() -> None:
    found = [fake("a")]
    for turn in range(1, 20):
        now = NOW + turn * 100
        signing = max((key for key in found if keys.signs_from(key) <= now), key=keys.signs_from)
        found = keys.rotate(found, now, 100)
        assert signing in found
        assert len(found) <= 3
    assert kids(keys.rotate([fake("a")], NOW + 10**9, 100))[0] == "a", "also when nobody has rotated for years"


def test_at_once_leaves_one_key_that_has_no_time() -> None:
    waiting = keys.rotate([fake("a")], NOW, 100)
    [only] = keys.rotate(waiting, NOW, 0)
    assert only["kid"] not in kids(waiting)
    assert "nbf" not in only, "a function whose clock is some seconds behind must be able to sign with it"


def test_of_keys_of_one_time_the_last_stays() -> None:
    """As the functions choose it: tests/test_rotation.py."""
    assert kids(keys.rotate([fake("a"), fake("b")], NOW, 100)) == ["b", "k1"]
    assert kids(keys.rotate([fake("b", nbf=7), fake("a", nbf=7)], NOW, 100)) == ["a", "k2"]


def test_what_is_published_has_nothing_private() -> None:
    jwk = dict(REAL_KEY)
    assert set(PRIVATE) < set(jwk)
    assert set(keys.public([{**jwk, "nbf": 5, "other": 1}])[0]) == {"kty", "kid", "use", "alg", "n", "e", "nbf"}


def test_the_public_set_fits_into_a_parameter() -> None:
    """4096 characters in the standard tier; a rotation never has more than three keys, and seven would fit."""
    jwk = {**REAL_KEY, "nbf": NOW}
    assert len(keys_command._compact(keys.public([jwk] * 7))) < 4096
    assert len(keys_command._compact([jwk] * 7)) < 65536


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": 1}', '{"keys": [1]}', '{"keys": [{"kid": "tells-nobody"}]}',
             '{"keys": [{"kid": "a", "d": "tells-nobody", "nbf": "soon"}]}'],
)  # fmt: skip
def test_what_is_no_private_set_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(KeysError, match=r"^not a private JWKS$"):
        keys.private(text)


# In the state folder.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    state.write_keys(tmp_path, [fake("a")])
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit code of `./okane keys`, and what it said."""
    code = keys_command.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "tells-nobody" not in said.out + said.err
    return code, said.out, said.err


def test_rotating_in_a_folder_and_listing_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert run(capsys, "--data", folder) == (0, "a  signs\n", "")
    code, said, _ = run(capsys, "rotate", "--overlap", 60, "--data", folder)
    assert (code, said) == (0, "k1 is published now, and signs from 2027-01-15T08:01:00Z on\n")
    assert run(capsys, "--data", folder)[1] == "a  signs\nk1  next, signs from 2027-01-15T08:01:00Z on\n"
    assert run(capsys, "rotate", "--data", folder)[0] == 1
    monkeypatch.setattr(time, "time", lambda: NOW + 60)
    assert run(capsys, "list", "--overlap", 60, "--data", folder)[1] == (
        "a  published; the first rotation after 2027-01-15T08:02:00Z drops it\nk1  signs since 2027-01-15T08:01:00Z\n"
    )
    monkeypatch.setattr(time, "time", lambda: NOW + 120)
    assert run(capsys, "rotate", "--overlap", 60, "--data", folder)[0] == 0
    assert kids(state.read_keys(folder)) == ["k1", "k2"]
    code, said, _ = run(capsys, "rotate", "--at-once", "--data", folder)
    assert (code, said) == (0, "k3 signs now; it is the only key, and access tokens of before are refused\n")
    assert kids(json.loads((folder / "keys" / "public.json").read_text())["keys"]) == ["k3"]
    for name in ("signing.json", "public.json"):
        assert stat.S_IMODE((folder / "keys" / name).stat().st_mode) == 0o600


def test_the_overlap_is_that_of_a_deployment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    run(capsys, "rotate", "--data", folder)
    assert keys.signs_from(state.read_keys(folder)[1]) == NOW + OVERLAP_SECONDS == NOW + 9600


def test_the_public_set_is_written_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in between, the new key is published and signs nothing; the next rotation takes it away."""
    write = state.write

    def stop(path: Path, value: object) -> None:
        if path.name == "signing.json":
            raise OSError("stopped")
        write(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(state, "write", stop)
        assert run(capsys, "rotate", "--data", folder) == (1, "", "okane: stopped\n")
    published = folder / "keys" / "public.json"
    assert kids(json.loads(published.read_text())["keys"]) == ["a", "k1"]
    assert kids(state.read_keys(folder)) == ["a"]
    assert run(capsys, "--data", folder)[0] == 0
    assert run(capsys, "rotate", "--data", folder)[0] == 0
    assert kids(json.loads(published.read_text())["keys"]) == kids(state.read_keys(folder)) == ["a", "k2"]


def test_a_key_that_is_not_published_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "keys" / "public.json").write_text('{"keys": []}')
    assert run(capsys, "--data", folder) == (1, "a  signs; NOT PUBLISHED\n", "")
    code, _, said = run(capsys, "rotate", "--data", folder)
    assert code == 1
    assert "the public set is not that of these private keys" in said
    assert run(capsys, "rotate", "--at-once", "--data", folder)[0] == 0
    assert run(capsys, "--data", folder)[0] == 0


@pytest.mark.parametrize("broken", ["", "{", '{"keys": [{"kid": "a"}]}', '{"keys": {}, "d": "tells-nobody"}x'])
def test_damaged_keys_are_said_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    (folder / "keys" / "signing.json").write_text(broken)
    for action in ("list", "rotate"):
        code, out, said = run(capsys, action, "--data", folder)
        assert (code, out, said.count("\n")) == (1, "", 1)
        assert "signing.json is damaged (not a private JWKS)" in said
        assert "tells-nobody" not in said


def test_a_folder_without_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, "--data", tmp_path)
    assert (code, said) == (1, f"okane: {tmp_path} has no keys yet: ./okane up makes them\n")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_before_there_were_rotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has secrets.json and no keys/: its one key goes on signing."""
    kept = state.read_secrets(tmp_path)
    assert not (tmp_path / "keys").exists()
    assert run(capsys, "rotate", "--data", tmp_path)[0] == 0
    assert kids(state.read_keys(tmp_path))[0] == kept.signing_key["kid"]
    state.make_keys(tmp_path, kept)  # as `up` does
    assert len(state.read_keys(tmp_path)) == 2, "and `up` leaves what is there"


def test_a_second_rotation_waits_for_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And then finds a key that has not begun to sign: made from the same set, one of two new keys would be lost."""
    flock, asked = fcntl.flock, threading.Event()
    with ThreadPoolExecutor(1) as pool, keys_command.Folder.alone(folder) as first:

        def tell(descriptor: int, operation: int) -> None:
            asked.set()
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", tell)
        second = pool.submit(keys_command.main, ["rotate", "--data", str(folder)])
        assert asked.wait(10)
        first.replace(keys.rotate(first.read(), int(time.time()), 100))
        assert not second.done()
    assert second.result() == 1
    assert len(state.read_keys(folder)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["make"], ["rotate", "now"], ["rotate", "--overlap", "0"], ["rotate", "--overlap", "-1"], ["rotate", "--overlap", "1.5"],
        ["rotate", "--overlap", "x"], ["rotate", "--overlap", "9" * 30], ["rotate", "--overlap", "60", "--at-once"],
        ["--at-once"], ["rotate", "--secret", "a"], ["rotate", "--parameter", "a"],
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        keys_command.main(arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


# On AWS.


class Cloud(NamedTuple):
    """The two services, as their owner sees them."""

    secrets: Any
    parameters: Any

    def private(self) -> list[Jwk]:
        value = self.secrets.get_secret_value(SecretId=SECRET, VersionStage="AWSCURRENT")
        found: list[Jwk] = json.loads(value["SecretString"])["keys"]
        return found

    def public(self) -> list[Jwk]:
        found: list[Jwk] = json.loads(self.parameters.get_parameter(Name=PARAMETER)["Parameter"]["Value"])["keys"]
        return found


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An account with the secret, which has no value yet."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    with mock_aws():
        there = Cloud(boto3.client("secretsmanager"), boto3.client("ssm"))
        there.secrets.create_secret(Name=SECRET)
        yield there


AWS = ("--secret", SECRET, "--parameter", PARAMETER)


def test_the_first_rotation_on_aws_makes_the_first_key(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *AWS) == (0, "there are no keys yet; rotate makes the first one\n", "")
    assert run(capsys, "rotate", *AWS) == (0, "k1 signs now; it is the only key\n", "")
    assert kids(cloud.private()) == kids(cloud.public()) == ["k1"]
    assert not set(PRIVATE) & set(cloud.public()[0])
    assert cloud.parameters.get_parameter(Name=PARAMETER)["Parameter"]["Type"] == "String"


@pytest.mark.parametrize("by_arn", [False, True])
def test_rotating_on_aws(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_arn: bool
) -> None:
    name = cloud.secrets.describe_secret(SecretId=SECRET)["ARN"] if by_arn else SECRET
    given = ("--secret", name, "--parameter", PARAMETER)
    monkeypatch.setattr(time, "time", lambda: NOW)
    run(capsys, "rotate", *given)
    assert run(capsys, "rotate", *given)[1] == "k2 is published now, and signs from 2027-01-15T10:40:00Z on\n"
    assert kids(cloud.private()) == kids(cloud.public()) == ["k1", "k2"]
    assert run(capsys, *given)[1] == "k1  signs\nk2  next, signs from 2027-01-15T10:40:00Z on\n"
    assert run(capsys, "rotate", *given)[0] == 1
    monkeypatch.setattr(time, "time", lambda: NOW + 2 * OVERLAP_SECONDS)
    assert run(capsys, "rotate", *given)[0] == 0
    assert kids(cloud.private()) == kids(cloud.public()) == ["k2", "k3"]
    assert run(capsys, "rotate", "--at-once", *given)[0] == 0
    assert kids(cloud.private()) == kids(cloud.public()) == ["k4"]


def test_on_aws_too_the_public_set_is_written_first(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "rotate", *AWS)
    call = keys_command.Aws._call
    for last in ("put_parameter", "put_secret_value", "update_secret_version_stage"):
        before = kids(cloud.private())

        def refuse(self: Any, service: str, operation: str, last: str = last, **arguments: Any) -> Any:
            if operation == last:
                raise KeysError("stopped")
            return call(self, service, operation, **arguments)

        with monkeypatch.context() as patched:
            patched.setattr(keys_command.Aws, "_call", refuse)
            assert run(capsys, "rotate", *AWS)[::2] == (1, "okane: stopped\n")
        assert kids(cloud.private()) == before
        assert (kids(cloud.public()) == before) == (last == "put_parameter")
        assert run(capsys, *AWS)[0] == 0, "what signs is published"
    assert run(capsys, "rotate", *AWS)[0] == 0
    assert kids(cloud.private()) == kids(cloud.public())


@pytest.mark.parametrize("when", ["put_parameter", "update_secret_version_stage"])
def test_of_two_rotations_at_once_on_aws_one_counts(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The other finds that the set it was made from is no longer the current one, and publishes what is."""
    run(capsys, "rotate", *AWS)
    call = keys_command.Aws._call
    rival: list[int] = []

    def interrupted(self: Any, service: str, operation: str, **arguments: Any) -> Any:
        if operation == when and not rival:
            rival.append(0)
            assert keys_command.main(["rotate", *AWS]) == 0
            rival.append(len(kids(cloud.private())))
        return call(self, service, operation, **arguments)

    monkeypatch.setattr(keys_command.Aws, "_call", interrupted)
    code, _, said = run(capsys, "rotate", *AWS)
    assert (code, said) == (1, "okane: somebody else has rotated the keys just now; theirs are in force\n")
    assert rival == [0, 2]
    assert kids(cloud.private()) == kids(cloud.public()) == ["k1", "k3"]


def test_two_sets_that_do_not_belong_together_are_not_rotated(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    for found in ('{"keys": [{"kid": "of another platform"}]}', "postgresql://okane_app@db.example.com/okane"):
        cloud.parameters.put_parameter(Name=PARAMETER, Value=found, Type="String", Overwrite=True)
        code, _, said = run(capsys, "rotate", *AWS)
        assert (code, said.count("\n")) == (1, 1)
        assert cloud.parameters.get_parameter(Name=PARAMETER)["Parameter"]["Value"] == found
    assert run(capsys, "rotate", "--at-once", *AWS)[0] == 1, "what is no set of keys is not overwritten"


def test_what_aws_refuses_is_said_in_one_line(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, "rotate", "--secret", "okane/nowhere", "--parameter", PARAMETER)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("okane: secretsmanager describe_secret: ")
    cloud.secrets.put_secret_value(SecretId=SECRET, SecretString="tells-nobody")
    assert run(capsys, "rotate", *AWS) == (1, "", "okane: not a private JWKS\n")


def test_without_credentials_or_a_region(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    code, _, said = run(capsys, *AWS)
    assert (code, said) == (1, "okane: secretsmanager describe_secret: You must specify a region.\n")
