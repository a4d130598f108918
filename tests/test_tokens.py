"""Access tokens that must not pass, on a route of every function; refresh tokens; and sessions that have ended."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from tests.support.api import Person
from tests.support.contract import CheckedApi, refused
from tests.support.forge import Forge, base64url
from tests.support.platform import Platform, Services
from tests.support.sign_in import address, age, log_in, profile, refresh, signed_in, until_waiting

NOWHERE = "00000000-0000-8000-8000-000000000000"
# One route of every function that takes tokens, with and without the cache; (method, path, body).
ROUTES = [
    ("GET", "/v1/me", None),
    ("GET", "/v1/wallets/INR", None),
    ("GET", "/v1/wallets", None),
    ("GET", f"/v1/transfers/{NOWHERE}", None),
]
PRIVATE = [
    *ROUTES,
    ("PATCH", "/v1/me", {"name": "Asha"}),
    ("POST", "/v1/auth/logout", None),
    ("GET", "/v1/auth/sessions", None),
    ("DELETE", "/v1/auth/sessions", None),
    ("DELETE", f"/v1/auth/sessions/{NOWHERE}", None),
    ("PUT", "/v1/auth/password", {"current_password": "not the password", "new_password": "nor any other"}),
    ("POST", "/v1/wallets", {"currency": "USD"}),
    ("GET", "/v1/wallets/INR/transactions", None),
    ("GET", "/v1/wallets/INR/transactions?limit=2", None),
    ("GET", f"/v1/transactions/{NOWHERE}", None),
    ("GET", "/v1/wallets/INR/statements/2026-11", None),
    ("POST", "/v1/wallets/INR/deposits", {"amount": 1, "bank": "hdfc"}),
    ("POST", "/v1/wallets/INR/withdrawals", {"amount": 1, "bank": "hdfc", "account": "00123456789"}),
    ("POST", "/v1/transfers/batch", {"currency": "INR", "items": [{"to": "@ravi", "amount": 1}]}),
    ("POST", f"/v1/transfers/{NOWHERE}/capture", {}),
    ("POST", f"/v1/transfers/{NOWHERE}/void", {}),
    ("POST", f"/v1/transfers/{NOWHERE}/refunds", {}),
    ("POST", "/v1/cache/warm", None),
    ("GET", "/v1/recipients/asha", None),
    ("POST", "/v1/transfers", {"to": "@nobody", "amount": 1, "currency": "INR"}),
]


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def asha(api: CheckedApi) -> Person:
    return api.sign_up("Asha")


@pytest.fixture(scope="module")
def forge(services: Services, asha: Person) -> Forge:
    return Forge(services.secrets.signing_key, asha.token)


def expect(api: CheckedApi, token: str, code: str = "token_invalid") -> None:
    """The token is refused with this code, by every function."""
    for method, path, body in ROUTES:
        answer = api.call(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
        assert refused(answer, 401, code), (method, path, token)


def test_the_forge_can_make_a_good_token(api: CheckedApi, forge: Forge) -> None:
    """Else every refusal below would prove nothing."""
    for method, path, body in ROUTES:
        answer = api.call(method, path, json=body, token=forge.token({"jti": "another"}))
        assert answer.status_code == (404 if NOWHERE in path else 200), answer.text


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", ""])
def test_unsigned_tokens(api: CheckedApi, forge: Forge, algorithm: str) -> None:
    header = forge.header | {"alg": algorithm}
    expect(api, forge.sealed(header, forge.claims, lambda _: b""))
    expect(api, forge.sealed(header, forge.claims, lambda _: b"x"))
    expect(api, forge.token(header={"alg": algorithm}))
    expect(api, forge.sealed(header, forge.claims, lambda _: b"").rstrip("."))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "RS256"])
def test_the_public_key_is_no_hmac_secret(api: CheckedApi, forge: Forge, algorithm: str) -> None:
    public = forge.private.public_key()
    published = api.call("GET", "/.well-known/jwks.json").json()["keys"][0]
    digest = {"HS384": "sha384", "HS512": "sha512"}.get(algorithm, "sha256")
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published).encode(),
        json.dumps(published, separators=(",", ":")).encode(),
        published["n"].encode(),
        base64.urlsafe_b64decode(published["n"] + "=="),
        b"",
    ):
        header = forge.header | {"alg": algorithm}
        expect(api, forge.sealed(header, forge.claims, lambda said, key=secret: hmac.digest(key, said, digest)))


@pytest.mark.parametrize(
    "algorithm", ["RS384", "RS512", "PS256", "ES256", "EdDSA", "rs256", "RS256 ", "RSA", None, 1, [], {}]
)
def test_one_algorithm_is_taken(api: CheckedApi, forge: Forge, algorithm: object) -> None:
    header = forge.header | {"alg": algorithm}
    expect(
        api,
        forge.sealed(header, forge.claims, lambda said: RSAAlgorithm(RSAAlgorithm.SHA256).sign(said, forge.private)),
    )
    if algorithm in ("RS384", "RS512"):
        expect(
            api,
            jwt.encode(
                forge.claims, forge.private, algorithm=str(algorithm), headers=forge.header | {"alg": algorithm}
            ),
        )


def test_another_key_under_our_name(api: CheckedApi, forge: Forge) -> None:
    stranger = generate_private_key(65537, 2048)
    expect(api, forge.token(key=stranger))
    jwk = RSAAlgorithm.to_jwk(stranger.public_key(), as_dict=True) | {"kid": forge.header["kid"], "alg": "RS256"}
    url = f"{api.endpoints.mailbox}/jwks.json"
    for header in (
        {"jwk": jwk},
        {"jku": url},
        {"x5u": url},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"]},
        {"jwk": jwk, "kid": None},
    ):
        expect(api, forge.token(header=header, key=stranger))


@pytest.mark.parametrize(
    "kid",
    [
        None, "", "unknown", "../../../../dev/null", "/dev/null", "file:///etc/passwd", "' OR '1'='1", "x' UNION SELECT 'x",
        "| cat /etc/passwd", "a" * 10_000, 0, 1, True, [], ["kid"], {}, {"kid": 1}, "\0", "é", "http://127.0.0.1/key",
    ],
)  # fmt: skip
def test_unknown_keys(api: CheckedApi, forge: Forge, kid: object) -> None:
    token = forge.token(header={"kid": kid})
    if len(token) > 9000:  # past the gateway's own limit for headers
        answer = api._http.get(f"{api.endpoints.api}/v1/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 431
        return
    expect(api, token)


@pytest.mark.parametrize("kind", ["JWT", "jwt", "AT+JWT", "at+jwt ", "application/at+jwt", "id+jwt", "", None, 1, []])
def test_other_kinds_of_tokens(api: CheckedApi, forge: Forge, kind: object) -> None:
    expect(api, forge.token(header={"typ": kind}))


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": -1}, "token_expired"),
        ({"exp": -3600}, "token_expired"),
        ({"nbf": 3600}, "token_invalid"),
        ({"iat": 3600}, "token_invalid"),
        ({"exp": 3600}, "token_invalid"),
    ],
)
def test_tokens_out_of_their_time(api: CheckedApi, forge: Forge, claims: dict[str, int], code: str) -> None:
    now = int(time.time())
    expect(api, forge.token({name: now + seconds for name, seconds in claims.items()}), code)


@pytest.mark.parametrize(
    "claims",
    [
        *({name: None} for name in ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid")),
        {"exp": "9999999999"}, {"exp": "never"}, {"exp": 1e400}, {"exp": [9999999999]}, {"exp": {}}, {"exp": True},
        {"exp": 10**400}, {"nbf": "0"}, {"nbf": "x"}, {"nbf": []}, {"iat": "x"}, {"iat": {}},
        {"aud": "other"}, {"aud": ""}, {"aud": ["okane"]}, {"aud": ["okane", "other"]}, {"aud": "okane "}, {"aud": 1},
        {"iss": "https://evil.example.com"}, {"iss": ""}, {"iss": 1}, {"iss": ["x"]},
        {"sub": "asha"}, {"sub": 1}, {"sub": ""}, {"sub": []}, {"sub": {}}, {"sub": "é"}, {"sub": "\ud800"}, {"sub": "x" * 36},
        {"sid": "asha"}, {"sid": 1}, {"sid": ""}, {"sid": []}, {"sid": {"a": 1}}, {"sid": True}, {"sid": "x" * 36},
        {"jti": 1}, {"jti": []},
    ],
)  # fmt: skip
def test_claims_that_do_not_fit(api: CheckedApi, forge: Forge, claims: dict[str, Any]) -> None:
    answer = api.call("GET", "/v1/me", token=forge.token(claims))
    assert answer.status_code == 401, (claims, answer.text)
    assert answer.json()["code"] in ("token_invalid", "token_expired"), (claims, answer.text)
    expect(api, forge.token(claims), answer.json()["code"])


def test_somebody_else_cannot_be_named(api: CheckedApi, forge: Forge) -> None:
    """A rightly signed token whose person and session do not belong together opens nothing, warm or cold."""
    other = api.sign_up("Ravi")
    for path in ("/v1/me", "/v1/wallets/INR", "/v1/wallets/INR/transactions"):
        assert api.call("GET", path, token=other.token).status_code == 200  # the session's sign is in the cache now
    theirs = jwt.decode(other.token, options={"verify_signature": False})
    for claims in (
        {"sub": theirs["sub"]},
        {"sid": theirs["sid"]},
        {"sub": str(uuid.uuid4())},
        {"sid": str(uuid.uuid4())},
    ):
        expect(api, forge.token(claims), "session_ended")


@pytest.mark.parametrize(
    "token",
    [
        "x", "a.b", "a.b.c", "..", "...", "e30.e30.e30", "a" * 5000, "{}", "eyJ.eyJ.", "é.é.é", "null", "Bearer",
        "e30.e30.e30.e30.e30", base64.b64encode(b"[" * 3000).decode().rstrip("=") + ".e30.e30",
    ],
)  # fmt: skip
def test_what_is_no_token_at_all(api: CheckedApi, token: str) -> None:
    for method, path, _ in ROUTES:
        sent: Any = {"Authorization": f"Bearer {token}".encode()}
        refused(api.call(method, path, headers=sent), 401, "token_invalid")


def test_a_token_that_was_changed(api: CheckedApi, asha: Person) -> None:
    head, body, mark = asha.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    longer = base64url(json.dumps(claims | {"exp": claims["exp"] + 1}).encode()).decode()
    flipped = ("B" if mark[5] != "B" else "C").join((mark[:5], mark[6:]))
    for token in (f"{head}.{longer}.{mark}", f"{head}.{body}.{flipped}", f"{head}.{body}.", f"{head}.{body}", f".{body}.{mark}",
                  f"{head}.{body}.{mark}.{mark}", f"{head}.{body}.{mark[:-8]}"):  # fmt: skip
        expect(api, token)


def test_how_the_header_is_read(api: CheckedApi, asha: Person) -> None:
    for taken in (f"Bearer {asha.token}", f"bearer {asha.token}", f"BEARER {asha.token}", f"Bearer   {asha.token}"):
        assert api.call("GET", "/v1/me", headers={"Authorization": taken}).status_code == 200, taken[:10]
    for missing in ("", "Bearer", asha.token, f"Basic {asha.token}", f"Token {asha.token}", f"Bearer\t{asha.token}",
                    f"Bearer:{asha.token}"):  # fmt: skip
        answer = api.call("GET", "/v1/me", headers={"Authorization": missing})
        assert answer.status_code == 401, missing[:10]
        assert answer.json()["code"] == "token_missing", missing[:10]
    for broken in (f"Bearer {asha.token} x", f"Bearer {asha.token},Bearer {asha.token}", f"Bearer Bearer {asha.token}"):
        refused(api.call("GET", "/v1/me", headers={"Authorization": broken}), 401, "token_invalid")
    refused(api.call("GET", f"/v1/me?access_token={asha.token}"), 401, "token_missing")
    refused(api.call("GET", "/v1/me", headers={"Cookie": f"access_token={asha.token}"}), 401, "token_missing")


def test_a_refresh_token_is_no_access_token(api: CheckedApi, asha: Person) -> None:
    expect(api, asha.refresh_token)
    refused(api.call("POST", "/v1/auth/refresh", json={"refresh_token": asha.token[:200]}), 401, "token_invalid")


def test_every_private_route_asks_for_a_token(api: CheckedApi) -> None:
    """PRIVATE is complete: the document names the routes."""
    listed = {(method, api.contract.path_of(method, path.partition("?")[0])) for method, path, _ in PRIVATE}
    documented = {
        (method, path)
        for method, path in api.contract.operations()
        if api.contract.document["paths"][path][method.lower()].get("security")
    }
    assert listed == documented
    for method, path, body in PRIVATE:
        refused(api.call(method, path, json=body, key="key-of-nobody"), 401, "token_missing")


def test_a_session_that_has_ended_is_over_everywhere_at_once(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    other = api.call("POST", "/v1/auth/login", json={"email": person.email, "password": person.password}).json()
    warm = [path for method, path, _ in PRIVATE if method == "GET"]
    for path in warm * 2:
        api.call("GET", path, token=person.token)
    assert api.call("GET", "/v1/wallets/INR", token=person.token).headers["okane-cache"] == "hit"
    assert api.call("POST", "/v1/auth/logout", token=person.token).status_code == 204
    for method, path, body in PRIVATE:
        answer = api.call(method, path, json=body, token=person.token, key=f"key-{uuid.uuid4()}")
        refused(answer, 401, "session_ended")
    refused(api.call("POST", "/v1/auth/refresh", json={"refresh_token": person.refresh_token}), 401, "session_ended")
    # It was that session only.
    for path in warm:
        assert api.call("GET", path, token=other["access_token"]).status_code in (200, 404)


def test_hashes_of_secrets_are_not_tokens(api: CheckedApi, asha: Person) -> None:
    """What stands in the database does not open anything."""
    stored = hashlib.sha256(bytes.fromhex(asha.refresh_token)).hexdigest()
    refused(api.call("POST", "/v1/auth/refresh", json={"refresh_token": stored}), 401, "token_invalid")


# Refresh tokens.


def test_refresh_tokens_rotate(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    seen = {tokens["refresh_token"]}
    for _ in range(4):
        renewed = refresh(api, tokens["refresh_token"]).json()
        assert renewed["session_id"] == tokens["session_id"]
        assert renewed["refresh_token"] not in seen
        assert profile(api, renewed).status_code == 200
        seen.add(renewed["refresh_token"])
        tokens = renewed


def test_a_lost_answer_can_be_asked_for_again(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    first = refresh(api, tokens["refresh_token"]).json()
    for _ in range(3):
        assert refresh(api, tokens["refresh_token"]).json()["refresh_token"] == first["refresh_token"]
    assert refresh(api, first["refresh_token"]).status_code == 200


def test_after_ten_seconds_it_is_a_theft(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    stolen = tokens["refresh_token"]
    renewed = refresh(api, stolen).json()
    assert profile(api, renewed).status_code == 200
    age(
        api, "UPDATE refresh_tokens SET used_at = used_at - interval '11 s' WHERE session_id = %s", tokens["session_id"]
    )
    refused(refresh(api, stolen), 401, "session_ended")
    # The whole family is over: the newest token, and the access tokens, on warm reads too.
    refused(refresh(api, renewed["refresh_token"]), 401, "session_ended")
    refused(profile(api, renewed), 401, "session_ended")
    refused(api.call("GET", "/v1/wallets/INR", token=tokens["access_token"]), 401, "session_ended")
    assert api.call("GET", "/v1/me", token=person.token).status_code == 200, "another session of the same person"


def test_a_predecessor_is_not_repeated_once_its_successor_was_used(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    second = refresh(api, tokens["refresh_token"]).json()
    third = refresh(api, second["refresh_token"]).json()
    refused(refresh(api, tokens["refresh_token"]), 401, "session_ended")
    refused(refresh(api, third["refresh_token"]), 401, "session_ended")


def test_twenty_refreshes_at_once_leave_one_token(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: refresh(api, tokens["refresh_token"]), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    successors = {answer.json()["refresh_token"] for answer in answers}
    assert len(successors) == 1
    with psycopg.connect(api.endpoints.database_url) as connection:
        alive = connection.execute(
            "SELECT count(*) FROM okane.refresh_tokens WHERE session_id = %s AND used_at IS NULL",
            [tokens["session_id"]],
        ).fetchone()
    assert alive == (1,)
    assert refresh(api, successors.pop()).status_code == 200


def test_refreshes_wait_for_one_another(api: CheckedApi) -> None:
    """Held up until several have begun: each would find the token unused if the session's row were not locked first."""
    _, tokens = signed_in(api)
    with psycopg.connect(api.endpoints.database_url) as holder, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: log_in(api, address(), "nothing"), range(8)))
        holder.execute("SELECT FROM okane.refresh_tokens WHERE session_id = %s FOR UPDATE", [tokens["session_id"]])
        answers = [pool.submit(refresh, api, tokens["refresh_token"]) for _ in range(4)]
        until_waiting(api, 2, answers)
        holder.rollback()
        successors = {answer.result().json()["refresh_token"] for answer in answers}
    assert len(successors) == 1


def test_seven_idle_days_end_a_refresh_token(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    age(api, "UPDATE refresh_tokens SET expires_at = expires_at - interval '7 days 1 s' WHERE session_id = %s",
        tokens["session_id"])  # fmt: skip
    refused(refresh(api, tokens["refresh_token"]), 401, "token_invalid")


def test_thirty_days_end_a_session(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    age(api, "UPDATE sessions SET expires_at = clock_timestamp() + interval '60 s' WHERE id = %s", tokens["session_id"])
    renewed = refresh(api, tokens["refresh_token"]).json()
    assert renewed["refresh_expires_in"] <= 60, "a refresh token does not outlive its session"
    age(api, "UPDATE sessions SET expires_at = clock_timestamp() WHERE id = %s", tokens["session_id"])
    refused(refresh(api, renewed["refresh_token"]), 401, "session_ended")
    cold = api.call("GET", "/v1/wallets", token=renewed["access_token"])
    refused(cold, 401, "session_ended")


def test_a_logged_out_session_is_over(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    assert api.call("POST", "/v1/auth/logout", token=tokens["access_token"]).status_code == 204
    refused(api.call("POST", "/v1/auth/logout", token=tokens["access_token"]), 401, "session_ended")
    refused(refresh(api, tokens["refresh_token"]), 401, "session_ended")
    refused(profile(api, tokens), 401, "session_ended")
    assert api.call("GET", "/v1/me", token=person.token).status_code == 200
    assert log_in(api, person.email, person.password).status_code == 200
