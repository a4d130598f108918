"""The commands behind ./okane: `python -m local <command> ...`; ./okane <command> --help tells what each does."""

import importlib
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Each has main(arguments) -> exit code, and is imported only when it is asked for.
COMMANDS = {
    "up": "local.platform",
    "demo": "local.demo",
    "migrate": "local.migrate",
    "audit": "local.audit",
    "wallet": "local.wallet",
    "limits": "local.limits",
    "withdrawals": "local.withdrawals",
    "sessions": "local.sessions",
    "keys": "local.keys_command",
    "check": "local.check",
    "build": "local.build",
}
# These are run in the checkout, as programs of their own.
PROGRAMS = {"test": "pytest", "bench": "bench"}


def main(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    if not arguments or arguments[0] not in COMMANDS | PROGRAMS:
        print(f"commands: {', '.join(COMMANDS | PROGRAMS)}; see ./okane --help", file=sys.stderr)
        return 2
    command, *rest = arguments
    if os.name == "nt":
        print("okane: this needs Linux or macOS; on Windows, run it inside WSL", file=sys.stderr)
        return 1
    if command in PROGRAMS:
        return _run_program(PROGRAMS[command], rest[1:] if rest[:1] == ["--"] else rest)
    # Nothing has been started yet, so Ctrl-C may end this at once; as an exception it can get lost within an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    module = importlib.import_module(COMMANDS[command])
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code: int = module.main(rest)
    except KeyboardInterrupt:  # in a command that has nothing to put in order
        print("okane: interrupted", file=sys.stderr)
        return 0 if command == "up" else 130
    return code


def _run_program(module: str, arguments: list[str]) -> int:
    """Becomes `python -m module`: signals and the exit code are the program's own."""
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "okane_common")])
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
