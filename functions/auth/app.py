"""Signing in, sessions, one's own profile, and the API's public documents.

POST /v1/auth/register           {email, password, name}     202 {message}, the same for known and unknown addresses
POST /v1/auth/verify             {email, code}               200 tokens
POST /v1/auth/login              {email, password}           200 tokens
POST /v1/auth/refresh            {refresh_token}             200 tokens
GET, DELETE /v1/auth/sessions, DELETE /v1/auth/sessions/{id}, POST /v1/auth/logout    200 {"data": [session]}, 204
PUT  /v1/auth/password           {current_password, new_password}    204, the other sessions end
POST /v1/auth/password/forgot    {email}                     202 {message}, always
POST /v1/auth/password/reset     {email, code, new_password} 204, all sessions end
GET  /v1/auth/google             302 to the provider         GET /v1/auth/google/callback  302 to the front end
POST /v1/auth/google/token       {code, code_verifier?}      200 tokens
GET, PATCH /v1/me                {name?, handle?}            200 profile
GET /.well-known/jwks.json, /.well-known/openid-configuration, /openapi.json, /v1/health
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from okane_common import api, cache, credentials, documents, mail, models, openid, people, sessions, tokens, traffic
from okane_common.api import Response
from okane_common.caller import Caller

tokens.can_sign()

PUBLIC = frozenset(
    {f"POST /v1/auth/{call}" for call in ("register", "verify", "login", "refresh", "google/token")}
    | {f"POST /v1/auth/password/{call}" for call in ("forgot", "reset")}
    | {"GET /v1/auth/google", "GET /v1/auth/google/callback"}
    | {f"GET /.well-known/{document}" for document in ("jwks.json", "openid-configuration")}
    | {"GET /openapi.json", "GET /v1/health"}
)
app = api.Api(tokens.authenticate, public=PUBLIC)

CHALLENGE = "The front end's own PKCE challenge (S256); its verifier must come with the code"


@app.route("POST", "/v1/auth/register", "Sign up; a code is mailed", "rate_limited", status=202)
def register(body: Annotated[models.SignUp, api.Body()]) -> Response[models.Message]:
    people.sign_up(body.email, body.password, body.name, app.visitor)
    return _said("Enter the code that was mailed to the address.")


@app.route("POST", "/v1/auth/verify", "Prove the e-mail address and sign in", "code_invalid", "rate_limited")
def verify(body: Annotated[models.Verification, api.Body()]) -> Response[models.Tokens]:
    return _signed_in(people.verify(body.email, body.code, app.visitor))


@app.route("POST", "/v1/auth/login", "Sign in", "credentials_invalid", "email_unverified", "rate_limited")
def log_in(body: Annotated[models.LogIn, api.Body()]) -> Response[models.Tokens]:
    return _signed_in(credentials.log_in(body.email, body.password, app.visitor))


@app.route("POST", "/v1/auth/refresh", "Exchange a refresh token", "token_invalid", "session_ended", "rate_limited")
def refresh(body: Annotated[models.Refresh, api.Body()]) -> Response[models.Tokens]:
    return _exchanged(sessions.carry_on, body.refresh_token, app.visitor)


@app.route("POST", "/v1/auth/logout", "End this session", status=204)
def log_out() -> Response[None]:
    return _ended([sessions.end(app.caller, app.caller.session_id)])


@app.route("GET", "/v1/auth/sessions", "Where I am signed in")
def list_sessions() -> Response[models.Sessions]:
    return api.answer(models.Sessions, {"data": sessions.read(app.caller)})


@app.route("DELETE", "/v1/auth/sessions/{id}", "End one of my sessions", status=204)
def end_session(id: api.Id) -> Response[None]:
    return _ended([sessions.end(app.caller, id)])


@app.route("DELETE", "/v1/auth/sessions", "End all of my sessions, this one too", status=204)
def end_sessions() -> Response[None]:
    return _ended(sessions.end_all(app.caller))


@app.route("PUT", "/v1/auth/password", "Change my password", "credentials_invalid", "rate_limited", status=204)
def change_password(body: Annotated[models.PasswordChange, api.Body()]) -> Response[None]:
    email, ended = credentials.change_password(app.caller, body.current_password, body.new_password, app.visitor)
    answer = _ended(ended)  # before the mail, which may take seconds
    app.tell(mail.send_password_changed, email)
    return answer


@app.route("POST", "/v1/auth/password/forgot", "Have a code for a new password mailed", "rate_limited", status=202)
def forget_password(body: Annotated[models.Forgotten, api.Body()]) -> Response[models.Message]:
    credentials.forgot(body.email, app.visitor)
    return _said("If the address has an account, a code was mailed to it.")


@app.route("POST", "/v1/auth/password/reset", "Set a new password", "code_invalid", "rate_limited", status=204)
def reset_password(body: Annotated[models.PasswordReset, api.Body()]) -> Response[None]:
    ended = credentials.reset(body.email, body.code, body.new_password, app.visitor)
    answer = _ended(ended)
    app.tell(mail.send_password_changed, body.email)
    return answer


@app.route("GET", "/v1/auth/google", "Go to Google to sign in", "not_found", status=302)
def go_to_google(
    return_to: Annotated[str | None, api.Query(description="One of the front end's configured addresses")] = None,
    code_challenge: Annotated[str | None, api.Query(pattern="^[A-Za-z0-9_-]{43}$", description=CHALLENGE)] = None,
    code_challenge_method: Annotated[Literal["S256"], api.Query(description="There is no other")] = "S256",
) -> Response[None]:
    del code_challenge_method  # asked for only to refuse any other
    way = openid.start(return_to, code_challenge)
    return api.redirect(way.url, way.cookie, openid.ROUND_SECONDS)


@app.route("GET", "/v1/auth/google/callback", "Come back from Google", "not_found", "rate_limited", status=302)
def come_back_from_google(
    code: Annotated[str | None, api.Query()] = None,
    state: Annotated[str | None, api.Query()] = None,
    error: Annotated[str | None, api.Query()] = None,
    iss: Annotated[str | None, api.Query()] = None,
) -> Response[None]:
    traffic.admit_network(app.visitor.source)
    query = {"code": code, "state": state, "error": error, "iss": iss}
    way = openid.come_back(app.event.get("cookies", []), query)
    if way.linked:
        app.tell(mail.send_identity_linked, way.linked)
    return api.redirect(way.url, way.cookie, openid.ROUND_SECONDS)


@app.route("POST", "/v1/auth/google/token", "Sign in with the code of the way back", "code_invalid", "rate_limited")
def redeem_code(body: Annotated[models.ProviderCode, api.Body()]) -> Response[models.Tokens]:
    return _exchanged(openid.redeem, body.code, body.code_verifier, app.visitor)


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
def change_me(body: Annotated[models.ProfileChange, api.Body()]) -> Response[models.Profile]:
    changed = people.change_profile(app.caller, body.name, body.handle)
    cache.publish_profile(app.caller.person_id, changed["version"], changed["profile"])
    return api.answer(models.Profile, changed["profile"])


@app.route("GET", "/.well-known/jwks.json", "The public keys of access tokens")
def read_keys() -> Response[dict[str, Any]]:
    return _public(tokens.public_jwks())


@app.route("GET", "/.well-known/openid-configuration", "Where the keys are")
def read_discovery() -> Response[dict[str, Any]]:
    return _public(documents.discovery())


@app.route("GET", "/openapi.json", "This contract")
def read_contract() -> Response[dict[str, Any]]:
    return _public(documents.openapi())


@app.route("GET", "/v1/health", "Whether the process answers")
def read_health() -> Response[models.Health]:
    return api.answer(models.Health, {"status": "ok"})


def _signed_in(session: sessions.Session) -> Response[models.Tokens]:
    cache.start_session(session.caller)
    return api.answer(models.Tokens, session.tokens())


def _exchanged(exchange: Callable[..., sessions.Session], *given: Any) -> Response[models.Tokens]:
    """What can be exchanged once; when it comes again, the session that came of it is over."""
    try:
        return _signed_in(exchange(*given))
    except sessions.Reused as reused:
        cache.end_sessions([reused.caller])
        app.tell(mail.send_session_reused, reused.email)
        raise


def _ended(ended: list[Caller]) -> Response[None]:
    cache.end_sessions(ended)
    return Response(204)


def _said(sentence: str) -> Response[models.Message]:
    return api.answer(models.Message, {"message": sentence}, status=202)


def _public(document: dict[str, Any]) -> Response[dict[str, Any]]:
    return api.answer(dict[str, Any], document, headers={"Cache-Control": "public, max-age=300"})


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.handle(event, context)
