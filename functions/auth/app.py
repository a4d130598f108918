"""Signing in, one's own profile, and the API's public documents.

POST /v1/auth/register    {email, password, name}   202 {message}, the same for known and unknown addresses
POST /v1/auth/verify      {email, code}             200 tokens
POST /v1/auth/login       {email, password}         200 tokens
POST /v1/auth/refresh     {refresh_token}           200 tokens
POST /v1/auth/logout                                204
GET, PATCH /v1/me         {name?, handle?}          200 profile
GET /.well-known/jwks.json, /.well-known/openid-configuration, /openapi.json, /v1/health
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from okane_common import api, cache, documents, models, people, tokens
from okane_common.api import Response

tokens.can_sign()

PUBLIC = frozenset(
    {f"POST /v1/auth/{call}" for call in ("register", "verify", "login", "refresh")}
    | {f"GET /.well-known/{document}" for document in ("jwks.json", "openid-configuration")}
    | {"GET /openapi.json", "GET /v1/health"}
)
app = api.Api(tokens.authenticate, public=PUBLIC)

Email = Annotated[
    str,
    # A plain address in ASCII: SES takes no other, and would read `x<victim@example.com>` as the victim's.
    Field(max_length=254, pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}$"),
    AfterValidator(str.lower),
]
Password = Annotated[str, Field(min_length=8, max_length=128, pattern=r"^[^\x00]*$")]


class SignUp(models.Body):
    """A new person."""

    email: Email
    password: Password
    name: models.Name


class Verification(models.Body):
    """The code that was mailed."""

    email: Email
    code: Annotated[str, Field(pattern="^[0-9]{6}$")]


class LogIn(models.Body):
    """What a person knows."""

    email: Email
    password: Annotated[str, Field(max_length=128)]


class Refresh(models.Body):
    """The newest refresh token of a session."""

    refresh_token: Annotated[str, Field(max_length=200)]


class ProfileChange(models.Body):
    """What to change; at least one of them."""

    name: models.Name | None = None
    handle: models.Handle | None = None

    @model_validator(mode="after")
    def _something(self) -> "ProfileChange":
        if self.name is None and self.handle is None:
            raise ValueError("name or handle is expected")
        return self


@app.route("POST", "/v1/auth/register", "Sign up; a code is mailed", "rate_limited", status=202)
def register(body: Annotated[SignUp, api.Body()]) -> Response[models.Message]:
    people.sign_up(body.email, body.password, body.name)
    return api.answer(models.Message, {"message": "Enter the code that was mailed to the address."}, status=202)


@app.route("POST", "/v1/auth/verify", "Prove the e-mail address and sign in", "code_invalid", "rate_limited")
def verify(body: Annotated[Verification, api.Body()]) -> Response[models.Tokens]:
    return _signed_in(people.verify(body.email, body.code, _device()))


@app.route("POST", "/v1/auth/login", "Sign in", "credentials_invalid", "email_unverified", "rate_limited")
def log_in(body: Annotated[LogIn, api.Body()]) -> Response[models.Tokens]:
    return _signed_in(people.log_in(body.email, body.password, _device()))


@app.route("POST", "/v1/auth/refresh", "Exchange a refresh token", "token_invalid", "session_ended")
def refresh(body: Annotated[Refresh, api.Body()]) -> Response[models.Tokens]:
    try:
        return _signed_in(people.refresh(body.refresh_token))
    except people.Reused as reused:
        cache.end_sessions([reused.caller])
        raise


@app.route("POST", "/v1/auth/logout", "End this session", status=204)
def log_out() -> Response[None]:
    people.log_out(app.caller)
    cache.end_sessions([app.caller])
    return Response(204)


@app.route("GET", "/v1/me", "My profile")
def read_me() -> Response[models.Profile]:
    key = cache.profile_key(app.caller.person_id)
    found = cache.look(app.caller, key)
    profile = found.content
    if found.status != "hit":
        read = people.read_profile(app.caller)
        profile = read["profile"]
        cache.fill(found, app.caller, cache.Entry(key, read["version"], profile))
    return api.answer(models.Profile, profile, headers={"OKANE-Cache": found.status})


@app.route("PATCH", "/v1/me", "Change my name or handle", "handle_taken")
def change_me(body: Annotated[ProfileChange, api.Body()]) -> Response[models.Profile]:
    changed = people.change_profile(app.caller, body.name, body.handle)
    cache.publish_profile(app.caller.person_id, changed["version"], changed["profile"])
    return api.answer(models.Profile, changed["profile"])


@app.route("GET", "/.well-known/jwks.json", "The public keys of access tokens")
def read_keys() -> Response[dict[str, Any]]:
    return _public(tokens.PUBLIC_JWKS)


@app.route("GET", "/.well-known/openid-configuration", "Where the keys are")
def read_discovery() -> Response[dict[str, Any]]:
    return _public(documents.discovery())


@app.route("GET", "/openapi.json", "This contract")
def read_contract() -> Response[dict[str, Any]]:
    return _public(documents.openapi())


@app.route("GET", "/v1/health", "Whether the process answers")
def read_health() -> Response[models.Health]:
    return api.answer(models.Health, {"status": "ok"})


def _signed_in(session: people.Session) -> Response[models.Tokens]:
    cache.start_session(session.caller)
    return api.answer(models.Tokens, session.tokens())


def _device() -> str:
    user_agent: str = app.event["headers"].get("user-agent", "")
    return user_agent[:200]


def _public(document: dict[str, Any]) -> Response[dict[str, Any]]:
    return api.answer(dict[str, Any], document, headers={"Cache-Control": "public, max-age=300"})


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.handle(event, context)
