"""What somebody may try at the door, one row each: its name, what is sent, and how it is refused, over HTTP.

Where a row is about what a token says, the token is signed with the platform's own key, so that nothing else refuses it.
tests/test_tokens.py tries more of each kind, on a route of every function.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.attacks import (
    PATHS,
    Attack,
    Moment,
    World,
    aud,
    authorization,
    bearer,
    brought_along,
    by_change,
    by_reset,
    by_reuse,
    changed,
    claim,
    claims,
    codes,
    confused,
    ended,
    head,
    heads,
    id_token,
    log_ins,
    login,
    past_the_gateway,
    pem,
    post,
    reset_code,
    sign_up_code,
    signed_by,
    spent_code,
    text,
    unsigned,
)
from tests.support.contract import CheckedApi, refused
from tests.support.forge import Forge, base64url
from tests.support.platform import Platform, Services
from tests.support.sign_in import address, log_in, password

FEWEST = 60

ATTACKS = [
    # Not signed at all
    *(unsigned(f"alg {name!r}", name) for name in ("none", "None", "nOnE", "NONE", "")),
    unsigned("alg none and a signature", "none", b"x"),
    unsigned("alg RS256 and no signature", "RS256"),
    head("alg none over a right signature", alg="none"),
    # The public key as a secret
    confused("HMAC with the key's PEM", "HS256", lambda w: pem(w)),
    confused("HMAC with the PEM, stripped", "HS256",
             lambda w: pem(w).strip()),
    confused("HMAC with the PKCS1 PEM", "HS256", lambda w: w.public.public_bytes(Encoding.PEM, PublicFormat.PKCS1)),
    confused("HMAC with the DER", "HS512", lambda w: w.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    confused("HMAC with the JWK", "HS256", lambda w: json.dumps(w.published).encode()),
    confused("HMAC with the short JWK", "HS384", lambda w: json.dumps(w.published, separators=(",", ":")).encode()),
    confused("HMAC with the modulus", "HS256", lambda w: w.published["n"].encode()),
    confused("HMAC with nothing", "HS256", lambda _: b""),
    # Other algorithms
    head("a right signature labelled PS256", alg="PS256"),
    head("a right signature labelled ES256", alg="ES256"),
    head("a right signature labelled EdDSA", alg="EdDSA"),
    head("a right signature labelled rs256", alg="rs256"),
    head("no alg", alg=None),
    head("a list of algs", alg=["RS256"]),
    signed_by("our own key by RS512", "RS512", lambda w: w.forge.private),
    signed_by("our own key by PS256", "PS256", lambda w: w.forge.private),
    signed_by("a stranger's ES256", "ES256", lambda _: ec.generate_private_key(ec.SECP256R1())),
    signed_by("a stranger's EdDSA", "EdDSA", lambda _: ed25519.Ed25519PrivateKey.generate()),
    # Which key
    *heads("kid", None, "", "../../../../dev/null", "/dev/null", "' OR '1'='1", "x' UNION SELECT 'x",
           "a" * 2500, 1, True, [], {}, "\0", "http://127.0.0.1/key"),
    # A key brought along
    brought_along("another key under our kid", lambda _, __: {}),
    brought_along("jwk", lambda _, jwk: {"jwk": jwk}),
    brought_along("jwk and no kid", lambda _, jwk: {"jwk": jwk, "kid": None}),
    brought_along("jku", lambda w, _: {"jku": f"{w.api.endpoints.mailbox}/jwks.json"}),
    brought_along("x5u", lambda w, _: {"x5u": f"{w.api.endpoints.mailbox}/key.pem"}),
    brought_along("x5c", lambda _, __: {"x5c": ["MIIB"]}),
    # What must be understood, and is not
    head("crit", crit=["exp"]),
    head("crit of something unknown", crit=["unknown"], unknown=1),
    head("an unencoded payload", b64=False, crit=["b64"]),
    # Other kinds of tokens
    *heads("typ", "JWT", None, "JWE", "AT+JWT", "at+jwt ", "application/at+jwt", 1),
    bearer("the provider's ID token", id_token),
    bearer("a refresh token as an access token", lambda w: w.asha.refresh_token),
    bearer("a session's id", lambda w: w.forge.claims["sid"]),
    # Who made it, for whom
    claim("another issuer", iss="https://accounts.google.com"),
    claim("a list of issuers", iss=["x"]),
    claim("no issuer", iss=None),
    claim("another audience", aud="another"),
    bearer("a list of audiences with ours in it", lambda w: w.forge.token({"aud": [aud(w), "another"]})),
    bearer("our audience in other letters", lambda w: w.forge.token({"aud": aud(w).upper()})),
    claim("no audience", aud=None),
    # When
    claim("expired", "token_expired", exp=Moment(-1)),
    claim("no end", exp=None),
    claim("an end in text", exp="9999999999"),
    claim("an end that is huge", exp=10**300),
    claim("an end that is a huge float", exp=1e30),
    claim("an end without end", exp=float("inf")),
    claim("an end that is no number", exp=float("nan")),
    claim("a negative end", "token_expired", exp=-1),
    claim("an end that is true", "token_expired", exp=True),
    claim("not yet valid", nbf=Moment(3600)),
    claim("made in the future", iat=Moment(3600), exp=Moment(3900)),
    claim("a longer life than ours", exp=Moment(24 * 3600)),
    claim("a longer life, by text", iat="0"),
    # Whose
    *claims("sub", None, "asha", 1, [], {}, "' OR '1'='1"),
    *claims("sid", None, "asha", 1, [], {}, "' OR '1'='1"),
    claim("no id of its own", jti=None),
    claim("somebody's made-up session", "session_ended", sid=str(uuid.uuid4())),
    bearer("another person's session", lambda w: w.forge.token({"sid": Forge({**w.forge.jwk}, w.ravi.token).claims["sid"]}),
           "session_ended"),
    bearer("another person with my session", lambda w: w.forge.token({"sub": w.ravi.id}), "session_ended"),
    # Once good
    ended("after its log-out", lambda w, _, tokens: w.api.call("POST", "/v1/auth/logout", token=tokens["access_token"])),
    ended("after all sessions were ended", lambda w, person, _: w.api.call("DELETE", "/v1/auth/sessions", token=person.token)),
    ended("after another session ended it",
          lambda w, person, tokens: w.api.call("DELETE", f"/v1/auth/sessions/{tokens['session_id']}", token=person.token)),
    ended("from before the password was changed elsewhere", by_change),
    ended("from before the password was reset", by_reset),
    ended("of a family whose token was used twice", by_reuse),
    # Taken apart
    changed("no signature", lambda p: f"{p[0]}.{p[1]}."),
    changed("no last part", lambda p: f"{p[0]}.{p[1]}"),
    changed("half a signature", lambda p: f"{p[0]}.{p[1]}.{p[2][:170]}"),
    changed("a signature with one letter changed", lambda p: f"{p[0]}.{p[1]}.{'B' if p[2][0] != 'B' else 'C'}{p[2][1:]}"),
    changed("a longer signature", lambda p: f"{p[0]}.{p[1]}.{p[2]}AAAA"),
    changed("two signatures", lambda p: ".".join([*p, p[2]])),
    changed("two more dots", lambda p: ".".join(p) + ".."),
    changed("no header", lambda p: f".{p[1]}.{p[2]}"),
    changed("a space inside", lambda p: f"{p[0]}. {p[1]}.{p[2]}"),
    changed("signed by the header of another", lambda p: f"{base64url(b'{"alg":"none"}').decode()}.{p[1]}.{p[2]}"),
    bearer("another's claims under my signature", lambda w: ".".join(
        [w.asha.token.split(".")[0], w.ravi.token.split(".")[1], w.asha.token.split(".")[2]])),
    # Strange JSON
    text("a header that says alg twice", header='{{},"alg":"none"}'),
    text("claims that say sub twice", claims='{{},"sub":"asha"}'),
    text("a header that is a list", header="[{{}}]"),
    text("claims that are a list", claims="[{{}}]"),
    text("claims that are a number", claims="1"),
    text("claims that are null", claims="null"),
    text("claims a thousand lists deep", claims="[" * 1000 + "]" * 1000),
    text("a header a thousand lists deep", header="[" * 1000 + "]" * 1000),
    text("NaN among the times", claims='{{},"nbf":NaN}'),
    text("half a document", claims='{{},'),
    text("half a character", claims='{{},"sub":"\\ud800"}'),
    # Around the token
    authorization("a token by Basic", lambda w: f"Basic {w.asha.token}", "token_missing"),
    authorization("the password by Basic", lambda w: b"Basic " + base64.b64encode(f"{w.asha.email}:{w.asha.password}".encode()),
                  "token_missing"),
    authorization("a token and no scheme", lambda w: w.asha.token, "token_missing"),
    authorization("a scheme and no token", lambda _: "Bearer", "token_missing"),
    authorization("a tab for the space", lambda w: f"Bearer\t{w.asha.token}", "token_missing"),
    authorization("two tokens in one header", lambda w: f"Bearer {w.asha.token}, Bearer {w.asha.token}", "token_invalid"),
    authorization("another language", lambda _: "Bearer \u043f\u0440\u0438\u0432\u0435\u0442".encode(), "token_invalid"),
    authorization("5 KB", lambda _: "Bearer " + "a" * 5000, "token_invalid"),
    past_the_gateway("12 KB", 12_000),
    past_the_gateway("1 MB", 1_000_000),
    Attack("two Authorization headers", lambda w: [w.api._http.get(w.api.endpoints.api + "/v1/me", headers=[
        ("Authorization", f"Bearer {w.asha.token}"), ("Authorization", f"Bearer {w.ravi.token}")])], 401, "token_invalid"),
    Attack("a token in the query", lambda w: [w.api.call("GET", f"/v1/me?access_token={w.asha.token}")], 401, "token_missing"),
    Attack("a token in a cookie", lambda w: [w.api.call("GET", "/v1/me", headers={"Cookie": f"access_token={w.asha.token}"})],
           401, "token_missing"),
    # Refresh tokens
    post("a refresh token that nobody has", "refresh", lambda _: {"refresh_token": "0" * 64}, 401, "token_invalid"),
    post("its hash", "refresh", lambda w: {"refresh_token": hashlib.sha256(bytes.fromhex(w.asha.refresh_token)).hexdigest()},
         401, "token_invalid"),
    post("in capitals", "refresh", lambda w: {"refresh_token": w.asha.refresh_token.upper() + "A"}, 401, "token_invalid"),
    post("with a line end", "refresh", lambda w: {"refresh_token": w.asha.refresh_token + "\n"}, 401, "token_invalid"),
    post("SQL as a refresh token", "refresh", lambda _: {"refresh_token": "' OR '1'='1"}, 401, "token_invalid"),
    post("an access token to refresh", "refresh", lambda w: {"refresh_token": w.asha.token}, 422, "validation_failed"),
    post("no refresh token", "refresh", lambda _: {"refresh_token": None}, 422, "validation_failed"),
    post("two refresh tokens", "refresh", lambda w: {"refresh_token": [w.asha.refresh_token] * 2}, 422, "validation_failed"),
    post("one name twice", "refresh", lambda w: f'{{"refresh_token":"x","refresh_token":"{w.asha.refresh_token}"}}',
         400, "json_invalid"),
    # Codes
    post("a code for the second time", "verify", spent_code, 401, "code_invalid"),
    post("a code for a new password to sign up", "verify", lambda w: {"email": w.ravi.email, "code": reset_code(w, w.ravi)},
         401, "code_invalid"),
    post("another person's code", "password/reset",
         lambda w: {"email": w.asha.email, "code": reset_code(w, w.ravi), "new_password": password()}, 401, "code_invalid"),
    post("a code of a sign-up for a new password", "password/reset", sign_up_code, 401, "code_invalid"),
    *codes(" 12345", "123 456", "123456\n", "\u0661\u0662\u0663\u0664\u0665\u0666",
           "\uff11\uff12\uff13\uff14\uff15\uff16",
           "12345", "1e5000", 123456, None, ["123456"], "' OR 1", "123456\0"),
    post("a provider's code that nobody has", "google/token", lambda _: {"code": "A" * 43}, 401, "code_invalid"),
    post("an access token as a provider's code", "google/token", lambda w: {"code": w.asha.token}, 422, "validation_failed"),
    # E-mail and password
    post("SQL as a password", "login", lambda w: login(w, password="' OR '1'='1' --"), 401, "credentials_invalid"),
    post("SQL as an e-mail", "login", lambda w: login(w, email="'or'1'='1'--@example.com"), 401, "credentials_invalid"),
    post("the hash of nobody", "login", lambda w: login(w, email=address()), 401, "credentials_invalid"),
    post("no password", "login", lambda w: login(w, password=""), 401, "credentials_invalid"),
    post("a password with a null inside", "login", lambda w: login(w, password=w.asha.password + "\0x"),
         401, "credentials_invalid"),
    *log_ins("password", 12345678, None, True, ["x"], {"$ne": ""}, "x" * 129),
    post("half a character as a password", "login",
         lambda w: f'{{"email":"{w.asha.email}","password":"\\ud800"}}', 422, "validation_failed"),
    *log_ins("email", "\u0430sha@example.com", "asha@ex\u0430mple.com",
             "asha@example.com\0", "asha@example.com\n", " asha@example.com",
             "a@b.example, asha@example.com", "x<asha@example.com>", "a" * 250 + "@example.com", "asha", "",
             None, ["x"], 1,
             "asha@example.com'; DROP TABLE okane.people; --", "%@example..com"),
    post("a field more", "login", lambda w: login(w, admin=True), 422, "validation_failed"),
    post("a password twice", "login", lambda w: f'{{"email":"{w.asha.email}","password":"x","password":"{w.asha.password}"}}',
         400, "json_invalid"),
    post("a list of log-ins", "login", lambda w: [login(w)] * 2, 422, "validation_failed"),
    post("a log-in a thousand lists deep", "login", lambda _: "[" * 1000 + "]" * 1000, 400, "json_invalid"),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(platform: Platform, services: Services) -> Iterator[World]:
    api = CheckedApi(platform.endpoints)
    asha, ravi = api.sign_up("Asha"), api.sign_up("Ravi")
    yield World(api, asha, ravi, Forge(services.secrets.signing_key, asha.token))
    api.close()


def test_what_is_right_gets_in(world: World) -> None:
    """Else the refusals below would prove nothing."""
    token = world.forge.token({"jti": "another"})
    for path in PATHS * 2:
        assert world.api.call("GET", path, token=token).status_code == 200
    assert log_in(world.api, world.asha.email, world.asha.password).status_code == 200
    assert id_token(world).count(".") == 2


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused(world: World, attack: Attack) -> None:
    with psycopg.connect(world.api.endpoints.database_url) as connection:
        connection.execute("DELETE FROM okane.budgets")  # how often one may try is tests/test_guessing.py's
    for answer in attack.send(world):
        if attack.code:
            refused(answer, attack.status, attack.code)
        assert answer.status_code == attack.status


def test_the_table_is_long_and_nothing_in_it_broke_anything(world: World, platform: Platform) -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) >= FEWEST
    assert len(set(names)) == len(names)
    log = (platform.state / "logs" / "functions.log").read_text(errors="replace")
    assert not [line for line in log.splitlines() if '"status":500' in line or "Traceback" in line]
    for person in (world.asha, world.ravi):
        assert world.api.call("GET", "/v1/me", token=person.token).status_code == 200, "and they are still in"
