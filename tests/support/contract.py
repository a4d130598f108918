"""Every reply against the contract: the OpenAPI document that the platform itself serves, and the headers of api.md."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
from openapi_schema_validator import OAS31Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.support.api import Api, Endpoints

DOCUMENT = "urn:openapi"
PROBLEM = "application/problem+json"
# Public documents may be kept by whoever fetched them; nothing else may.
CACHEABLE = {"/.well-known/jwks.json", "/.well-known/openid-configuration", "/openapi.json"}


class Contract:
    """One OpenAPI document, and whether a reply is what it says."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._registry: Registry[Any] = Registry().with_resource(DOCUMENT, DRAFT202012.create_resource(document))
        self._validators: dict[str, OAS31Validator] = {}
        self.seen: set[tuple[str, str, int]] = set()  # method, path, status of every reply that was checked

    def operations(self) -> Iterator[tuple[str, str]]:
        """Every documented method and path."""
        for path, item in self.document["paths"].items():
            for method in item:
                yield method.upper(), path

    def path_of(self, method: str, path: str) -> str | None:
        """The documented path that a request's path is one of, or None."""
        asked = [unquote(part) for part in path.split("/")]
        found = []
        for known, item in self.document["paths"].items():
            parts = known.split("/")
            if len(parts) == len(asked) and method.lower() in item:
                pairs = list(zip(parts, asked, strict=True))
                if all((got and want.startswith("{")) or want == got for want, got in pairs[1:]):
                    found.append(known)
        return min(found, key=lambda known: known.count("{"), default=None)

    def check(self, reply: httpx.Response, method: str = "", target: str = "") -> None:
        """Fails unless the status is documented, the body is exactly its schema, and the headers are all there.

        method and target: what was asked for, where the reply does not know it.
        """
        method = method or reply.request.method
        target = target or reply.request.url.raw_path.decode()
        what = f"{method} {target[:200]} -> {reply.status_code} {reply.text[:600]}"
        assert reply.status_code < 500, what
        path = self.path_of(method, target.partition("?")[0])
        if path is None:
            self._check_gateway(reply, method, what)
            return
        self.seen.add((method, path, reply.status_code))
        self._check_headers(reply, path, what)
        documented = self.document["paths"][path][method.lower()]["responses"]
        assert str(reply.status_code) in documented, f"undocumented status: {what}"
        response = documented[str(reply.status_code)]
        if reply.status_code in (204, 302):
            assert not reply.content, what
            assert not response.get("content"), f"neither has content: {response}"
            assert ("location" in reply.headers) == (reply.status_code == 302), what
            return
        media_type = PROBLEM if reply.status_code >= 400 else "application/json"
        assert reply.headers.get("content-type") == media_type, what
        self._check_body(path, method.lower(), reply, media_type, what)
        if reply.status_code >= 400:
            self._check_problem(reply, response["description"].split(", "), what)

    def _check_gateway(self, reply: httpx.Response, method: str, what: str) -> None:
        if method == "OPTIONS" and reply.status_code == 204:
            return
        assert reply.status_code == 404, what
        assert reply.json() == {"message": "Not Found"}, what

    def _check_headers(self, reply: httpx.Response, path: str, what: str) -> None:
        assert reply.headers.get("x-request-id"), f"no X-Request-Id: {what}"
        assert reply.headers.get("x-content-type-options") == "nosniff", what
        kept = "public, max-age=300" if path in CACHEABLE and reply.status_code == 200 else "no-store"
        assert reply.headers.get_list("cache-control") == [kept], what

    def _check_body(self, path: str, method: str, reply: httpx.Response, media_type: str, what: str) -> None:
        steps = ("paths", path, method, "responses", str(reply.status_code), "content", media_type, "schema")
        pointer = "/".join(step.replace("~", "~0").replace("/", "~1") for step in steps)
        if pointer not in self._validators:
            schema = {"$ref": f"{DOCUMENT}#/{pointer}"}
            self._validators[pointer] = OAS31Validator(schema, registry=self._registry)
        faults = [fault.message for fault in self._validators[pointer].iter_errors(_exact(reply.text))]
        assert not faults, f"{faults}: {what}"

    def _check_problem(self, reply: httpx.Response, documented: list[str], what: str) -> None:
        problem = reply.json()
        assert problem["status"] == reply.status_code, what
        assert problem["code"] in documented, f"undocumented code: {what}"
        assert problem["request_id"] == reply.headers["x-request-id"], what
        assert problem["type"].endswith(f"errors.md#{problem['code']}"), what
        # A batch that was refused as a whole says which item it was.
        of_an_item = [fault["pointer"].startswith("/items/") for fault in problem.get("errors", [])]
        assert ("errors" in problem) == (problem["code"] == "validation_failed" or of_an_item == [True]), what
        assert ("limit" in problem) == (problem["code"] == "limit_exceeded"), what
        assert ("retry-after" in reply.headers) == (reply.status_code in (429, 503)), what
        assert ("www-authenticate" in reply.headers) == (reply.status_code == 401), what


class CheckedApi(Api):
    """The client of the tests, with every reply checked on the way."""

    def __init__(self, endpoints: Endpoints) -> None:
        super().__init__(endpoints)
        self.contract = Contract(self._http.get(f"{endpoints.api}/openapi.json").raise_for_status().json())

    def call(self, method: str, path: str, **details: Any) -> httpx.Response:
        """As Api.call; fails where the reply is not what the contract says."""
        reply = super().call(method, path, **details)
        self.contract.check(reply)
        return reply


def refused(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that a reply is; fails unless it has this status and code."""
    assert (reply.status_code, reply.json().get("code")) == (status, code), f"{reply.status_code} {reply.text[:600]}"
    problem: dict[str, Any] = reply.json()
    return problem


def _exact(text: str) -> Any:
    """The JSON, refusing what strict readers do not take: a key twice, NaN."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), f"a key twice: {text[:300]}"
        return dict(pairs)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON: {text[:300]}")

    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
