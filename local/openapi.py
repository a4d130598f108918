"""The OpenAPI document, generated from the functions' routes and kept beside the code that serves it.

    ./okane check openapi          is the kept file what the code says?
    ./okane check openapi --fix    write it anew

The functions are imported in a process of their own, since okane_common reads its settings while it is imported.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from local.imports import start_values
from local.template import Function, load

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "layers" / "okane_common" / "okane_common" / "openapi.json"
TITLE = "OKANE"
VERSION = "1.0.0"
DESCRIPTION = """\
A digital wallet and person-to-person payments. Amounts are integers in the currency's minor unit. Refusals are
RFC 9457 problems whose `code` is the contract. Every POST that moves money takes an `Idempotency-Key`, which names the
transaction for ever: repeat a request with the same key until there is an answer."""
SECONDS = 60
_REFERENCE = re.compile('"#/components/schemas/([^"]+)"')

# In the function's own process: what its routes, models and annotations say.
_ASK = """
import json, sys
sys.path[:0] = sys.argv[1:]
import app
from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer
bearer = HTTPBearer(bearerFormat="JWT")
schema = app.app.get_openapi_schema(openapi_version="3.1.0", security_schemes={"bearer": bearer})
json.dump(schema.model_dump(by_alias=True, exclude_none=True, mode="json"), sys.stdout)
"""


class OpenApiError(Exception):
    """The functions cannot be described together; the text says why."""


def generate() -> str:
    """The document as text, one for the whole API. Raises OpenApiError."""
    template = load(ROOT / "template.yaml")
    serving = {route.function for route in template.routes}
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for logical_id in sorted(serving):
        part = _ask(template.functions[logical_id])
        for path, operations in part["paths"].items():
            paths.setdefault(path, {}).update({method: _tidy(one) for method, one in operations.items()})
        for name, schema in part.get("components", {}).get("schemas", {}).items():
            if schemas.setdefault(name, schema) != schema:
                raise OpenApiError(f"two functions have different models named {name}")
    document = {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": DESCRIPTION, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {name: schemas[name] for name in sorted(_used(paths, schemas))},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    faults = [f"{fault.json_path}: {fault.message}" for fault in OpenAPIV31SpecValidator(document).iter_errors()]
    if faults:
        raise OpenApiError("not a valid OpenAPI 3.1 document:\n" + "\n".join(faults))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def difference() -> str:
    """What is wrong with the kept file; empty if it is what the code says. Raises OpenApiError."""
    kept = KEPT.read_text(encoding="utf-8") if KEPT.exists() else ""
    if kept == generate():
        return ""
    return f"{KEPT.name} is not what the code says; ./okane check openapi --fix writes it anew"


def write() -> None:
    """Write the kept file anew. Raises OpenApiError."""
    KEPT.write_text(generate(), encoding="utf-8")


def _tidy(operation: dict[str, Any]) -> dict[str, Any]:
    """Responses by status, and header names as they are written (Powertools has them in lower case)."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "header":
            parameter["name"] = parameter["schema"]["title"]
    return {**operation, "responses": dict(sorted(operation["responses"].items()))}


def _used(paths: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """Names of the schemas that the paths lead to: Powertools describes answers of its own that OKANE never gives."""
    used: set[str] = set()
    found = set(_REFERENCE.findall(json.dumps(paths)))
    while found:
        used |= found
        found = {name for one in found for name in _REFERENCE.findall(json.dumps(schemas[one]))} - used
    return used


def _ask(function: Function) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *map(str, (*function.layers, function.code))],
        env=function.environment(start_values()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise OpenApiError(f"{function.logical_id} does not start:\n{done.stderr.strip()}")
    schema: dict[str, Any] = json.loads(done.stdout, parse_float=_number)
    return schema


def _number(text: str) -> int | float:
    """Powertools keeps limits as floats: `"maximum": 100.0` is no limit for whole numbers to some generators."""
    return int(float(text)) if float(text).is_integer() else float(text)
