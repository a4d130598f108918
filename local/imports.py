"""Does each handler start with nothing but what Lambda will have? Asked of a built template.

Every handler is imported by a bare interpreter (no site-packages, no environment) that finds the standard library,
the layer and the function's own folder, with exactly the variables that the template gives the function. Lambda's
runtime has boto3 besides; here it is absent, which proves that nothing needs it to start.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from local.state import Secrets
from local.template import Function, load

# Each costs more at a cold start than the rest of it together, so it is imported where it is first used.
LATE = ("argon2", "boto3", "botocore", "zxcvbn")
SECONDS = 60

_PROBE = """
import importlib, json, sys
sys.dont_write_bytecode = True
sys.path[:0] = sys.argv[2:]
module, _, name = sys.argv[1].rpartition(".")
if not callable(getattr(importlib.import_module(module), name)):
    sys.exit(f"{sys.argv[1]} is not callable")
json.dump([
    [name, getattr(module, "__file__", None) or "", getattr(module, "__cached__", None) or ""]
    for name, module in sys.modules.items()
], sys.stdout)
"""


def check(template: Path) -> list[str]:
    """What is wrong with the handlers of this built template; an empty list if nothing is."""
    values = start_values()
    return [fault for function in load(template).functions.values() for fault in _faults(function, values)]


def _faults(function: Function, values: Mapping[str, str]) -> list[str]:
    folders = [str(folder) for folder in (*function.layers, function.code)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PROBE, function.handler, *folders],
        env=function.environment(values),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        return [f"{function.logical_id} does not start:\n{done.stderr.strip()}"]
    faults = []
    for name, file, cached in json.loads(done.stdout):
        if name in LATE:
            faults.append(f"{function.logical_id} imports {name} at its start")
        elif any(file.startswith(f"{layer}/") for layer in function.layers) and file.endswith(".py"):
            if not Path(cached).is_file():
                faults.append(f"{function.logical_id}: {file} has no .pyc in the layer")
        elif file and not file.startswith((*folders, sys.base_prefix)):
            faults.append(f"{function.logical_id} imports {name} from {file}, which Lambda does not have")
    return faults


def start_values() -> dict[str, str]:
    """A value for every variable that a handler may read while it starts; nobody answers at these addresses."""
    secrets = Secrets.make()
    return {
        "BANK_SECRETS": json.dumps(secrets.bank_secrets),
        "DATABASE_URL": "postgresql://okane_app@127.0.0.1:1/okane",
        "MAIL_FROM": "no-reply@example.com",
        "OKANE_SECRET": secrets.okane_secret,
        "TOKEN_ISSUER": "https://api.example.com",
        "TOKEN_PUBLIC_KEYS": secrets.public_keys(),
        "TOKEN_SIGNING_KEYS": secrets.signing_keys(),
        "UPSTASH_REDIS_REST_TOKEN": secrets.redis_token,
        "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
    }
