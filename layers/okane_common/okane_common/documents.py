"""The public documents: discovery, and the OpenAPI document that `./okane check` keeps beside this file."""

import functools
import json
from pathlib import Path
from typing import Any

from okane_common import tokens

OPENAPI_FILE = Path(__file__).with_name("openapi.json")


def discovery() -> dict[str, Any]:
    """OpenID Connect Discovery 1.0, as far as it applies: API Gateway's JWT authorizer finds the keys with it."""
    return {
        "issuer": tokens.ISSUER,
        "jwks_uri": f"{tokens.ISSUER}/.well-known/jwks.json",
        "id_token_signing_alg_values_supported": [tokens.ALGORITHM],
        "subject_types_supported": ["public"],
        "response_types_supported": ["token"],
    }


@functools.cache
def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the whole API."""
    document: dict[str, Any] = json.loads(OPENAPI_FILE.read_text(encoding="utf-8"))
    return document
