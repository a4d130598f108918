"""Balances, history, and money that comes from a bank or goes to one.

GET  /v1/wallets                                       200 {"data": [wallet]}
POST /v1/wallets                          {currency}   201 wallet, 200 if it exists
GET  /v1/wallets/{currency}                            200 wallet, as it is or as it was at a version
GET  /v1/wallets/{currency}/transactions               200 page of transaction
GET  /v1/wallets/{currency}/statements/{month}         200 statement, JSON or CSV
GET  /v1/transactions/{id}                             200 transaction
POST /v1/wallets/{currency}/deposits      {amount, bank}           201 transaction; amount in minor units
POST /v1/wallets/{currency}/withdrawals   {amount, bank, account}  201 transaction; the amount is locked
POST /v1/cache/warm                                    202, the cache warmer works on it
"""

from typing import Annotated, Any, Literal

from okane_common import api, aws, cache, ledger, models, pages, settings, statements, tokens
from okane_common.api import Response
from okane_common.errors import Refusal

app = api.Api(tokens.authenticate)

BANKS = settings.json_object("BANKS")
CACHE_WARMER = settings.text("CACHE_WARMER_FUNCTION")
EVERY_KIND = ["deposit", "withdrawal", "transfer", "refund"]


@app.route("GET", "/v1/wallets", "All my wallets")
def list_wallets() -> Response[models.Wallets]:
    return api.answer(models.Wallets, {"data": ledger.read_wallets(app.caller)["wallets"]})


@app.route("POST", "/v1/wallets", "Open a wallet in another currency", status=201, also=200)
def open_wallet(body: Annotated[models.NewWallet, api.Body()]) -> Response[models.Wallet]:
    opened = ledger.open_wallet(app.caller, body.currency)
    return api.answer(models.Wallet, opened["wallet"], status=201 if opened["outcome"] == "made" else 200)


@app.route("GET", "/v1/wallets/{currency}", "One wallet", "not_found", "state_conflict")
def read_wallet(
    currency: api.CurrencyInPath, min_version: api.MinVersion = 0, at_version: api.AtVersion = None
) -> Response[models.Wallet]:
    if at_version is not None:
        return _wallet_at(currency, at_version, min_version)
    key = cache.wallet_key(app.caller.person_id, currency)
    found = cache.look(app.caller, key, min_version)
    wallet = found.content
    if found.status != "hit":
        read = ledger.read_wallet(app.caller, currency)
        wallet = read["wallet"]
        if read["keep"]:
            cache.fill(found, app.caller, cache.Entry(key, wallet["version"], wallet))
        _must_have_reached(min_version, wallet["version"])
    headers = {"OKANE-Cache": found.status, "ETag": f'"{wallet["version"]}"'}
    return api.answer(models.Wallet, wallet, headers=headers)


@app.route("GET", "/v1/wallets/{currency}/transactions", "My history", "not_found", "cursor_invalid", "state_conflict")
def read_history(
    currency: api.CurrencyInPath,
    limit: api.Limit = pages.DEFAULT_LIMIT,
    cursor: api.Cursor = None,
    kind: Annotated[Literal["deposit", "withdrawal", "transfer", "refund"] | None, api.Query()] = None,
    status: Annotated[Literal["Processing", "Success", "Failure"] | None, api.Query()] = None,
    since: Annotated[api.Moment | None, api.Query(alias="from", description="Created at or after")] = None,
    until: Annotated[api.Moment | None, api.Query(alias="to", description="Created before")] = None,
    min_version: api.MinVersion = 0,
) -> Response[models.TransactionPage]:
    filters = {
        "kind": kind,
        "status": status,
        "from": since.isoformat() if since else None,
        "to": until.isoformat() if until else None,
    }
    owner = f"{app.caller.person_id} {currency}"
    before = pages.read_cursor(cursor, owner, filters)
    key = cache.history_key(app.caller.person_id, currency)
    if before == pages.FIRST and limit == cache.PAGE_LIMIT and not any(filters.values()):
        found = cache.look(app.caller, key, min_version)
    else:
        found = cache.BYPASS
    page, version = found.content, found.version
    if found.status != "hit":
        read = ledger.read_history(app.caller, currency, before, limit, filters)
        page, version = read["page"], read["version"]
        if read["keep"]:
            cache.fill(found, app.caller, cache.Entry(key, version, page))
        _must_have_reached(min_version, version)
    headers = {"OKANE-Cache": found.status, "ETag": f'"{version}"'}
    return api.answer(models.TransactionPage, pages.make_page(page, owner, filters), headers=headers)


@app.route(
    "GET", "/v1/wallets/{currency}/statements/{month}", "One month", "cursor_invalid", content=statements.CONTENT
)
def read_statement(
    currency: api.CurrencyInPath, month: statements.MonthInPath, cursor: api.Cursor = None
) -> Response[models.Statement | str]:
    owner, part = f"{app.caller.person_id} {currency}", {"month": month}
    after = pages.read_cursor(cursor, owner, part, first=0)
    read = ledger.read_statement(app.caller, currency, month, after, statements.MOST_LINES)
    following = pages.make_cursor(read["next"], owner, part) if read["next"] else None
    return statements.answer(read["statement"], following, app.event["headers"].get("accept", ""))


@app.route("GET", "/v1/transactions/{id}", "One transaction of mine", "not_found")
def read_transaction(id: api.Id) -> Response[models.Transaction]:
    return api.answer(models.Transaction, ledger.read_transaction(app.caller, id, EVERY_KIND)["transaction"])


@app.route(
    "POST",
    "/v1/wallets/{currency}/deposits",
    "Bring money in from a bank",
    *(*api.KEYED, "not_found", "wallet_frozen"),
    status=201,
)
def open_deposit(
    currency: api.CurrencyInPath, body: Annotated[models.NewDeposit, api.Body()], key: api.IdempotencyKey
) -> Response[models.Transaction]:
    opened = ledger.open_deposit(app.caller, key, currency, body.amount, body.bank, _page(body.bank))
    cache.publish(opened["changed"])
    return api.moved(opened)


@app.route(
    "POST",
    "/v1/wallets/{currency}/withdrawals",
    "Pay money out to a bank account",
    *(*api.KEYED, "not_found", "insufficient_funds", "limit_exceeded", "wallet_frozen"),
    status=201,
)
def open_withdrawal(
    currency: api.CurrencyInPath, body: Annotated[models.NewWithdrawal, api.Body()], key: api.IdempotencyKey
) -> Response[models.Transaction]:
    page = _page(body.bank)
    opened = ledger.open_withdrawal(app.caller, key, currency, body.amount, body.bank, body.account, page)
    cache.publish(opened["changed"])
    return api.moved(opened)


@app.route("POST", "/v1/cache/warm", "Warm my wallet, history and profile", status=202)
def warm_cache() -> Response[models.Message]:
    ledger.read_wallets(app.caller)  # refuses a session that has ended
    aws.invoke_later(CACHE_WARMER, {"person_id": str(app.caller.person_id)})
    return api.answer(models.Message, {"message": "Your wallet, history and profile are being warmed."}, status=202)


def _page(bank: str) -> str:
    if bank not in BANKS:
        fault = {"pointer": "/bank", "code": "bank_unknown", "detail": f"The banks here are {', '.join(BANKS)}."}
        raise Refusal("validation_failed", "There is no such bank.", errors=[fault])
    return str(BANKS[bank])


def _wallet_at(currency: str, version: int, min_version: int) -> Response[models.Wallet]:
    if min_version:
        fault = {"pointer": "?at_version", "code": "with_min_version", "detail": "Leave one of the two out."}
        raise Refusal("validation_failed", "at_version and min_version contradict each other.", errors=[fault])
    read = ledger.read_wallet_at(app.caller, currency, version)
    _must_have_reached(version, read["version"])
    return api.answer(models.Wallet, read["wallet"], headers={"OKANE-Cache": "bypass", "ETag": f'"{version}"'})


def _must_have_reached(min_version: int, version: int) -> None:
    if version < min_version:
        raise Refusal("state_conflict", f"The wallet is at version {version} and has not reached {min_version}.")


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.handle(event, context)
