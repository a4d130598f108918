"""The template with API Gateway's own JWT authorizer before every private route: what `./okane build --jwt-authorizer` builds.

A parameter cannot switch it: SAM wants the names of authorizers as plain text, and takes no condition on a route. A second
template has another use, too. API Gateway asks the issuer for its keys when the authorizer is made, and the issuer is the API
itself: it must be deployed without one first.
"""

import json
import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "layers" / "okane_common" / "okane_common" / "openapi.json"
API = """      FailOnWarnings: true
"""  # as it stands in template.yaml, and nowhere else
# No DefaultAuthorizer with NONE on the public routes: SAM would name NONE as a security scheme that is not there.
AUTH = """      Auth:
        Authorizers:
          Tokens:
            IdentitySource: $request.header.Authorization
            JwtConfiguration:
              issuer: !Ref PublicUrl
              audience: [okane]
"""
ROUTE = re.compile(r'(\{ Type: HttpApi, Properties: \{ ApiId: !Ref Api, Method: ([A-Z]+), Path: "([^"]+)") (\} \})')


class AuthorizerError(Exception):
    """template.yaml is not of the form that this module edits; the text says where."""


def guard(template: str) -> str:
    """The text of template.yaml with the authorizer. Raises AuthorizerError if a route would be left out."""
    private = private_routes()
    found = {f"{method} {path}" for _, method, path, _ in ROUTE.findall(template)}
    if template.count(API) != 1 or len(found) != template.count("Type: HttpApi,") or not private <= found:
        raise AuthorizerError("template.yaml: the API or its routes are not written as local/authorizer.py expects")

    def auth(event: re.Match[str]) -> str:
        before, method, path, after = event.groups()
        return f"{before}, Auth: {{ Authorizer: Tokens }} {after}" if f"{method} {path}" in private else event[0]

    return ROUTE.sub(auth, template).replace(API, API + AUTH)


def private_routes() -> set[str]:
    """The routes that need an access token, as the API's own document says it."""
    paths = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"]
    return {
        f"{method.upper()} {path}"
        for path, operations in paths.items()
        for method, one in operations.items()
        if one.get("security")
    }
