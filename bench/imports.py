"""What a cold start spends on imports: each handler against the least that any of them needs, with .pyc and without.

CPU of a whole Python process that imports and ends, from copies of the packages, so that nothing is found compiled, or
not, by chance. The standard library is compiled in both, as it is on Lambda.
"""

import compileall
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

from bench.stand import variables
from local.state import Secrets
from local.template import load

ROOT = Path(__file__).resolve().parent.parent
AIM = 2.0  # a handler as a multiple of the base, at most, where there is .pyc
BASE = "awslambdaric, psycopg, jwt"
CLIENT = "awslambdaric"  # brought by the runtime, not by the layer

_REPORT = "; import resource as r; u = r.getrusage(r.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"


def measure(folder: Path, runs: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each handler, with and without .pyc: CPU in ms, and its ratio to the base. folder: an empty one."""
    template = load(ROOT / "template.yaml")
    given = variables(Secrets.make(), "http://127.0.0.1:9", "postgresql://127.0.0.1:9/okane", "http://127.0.0.1:9")
    cases: dict[str, tuple[str, str, Mapping[str, str]]] = {BASE: (f"import {CLIENT}.bootstrap, psycopg, jwt", "", {})}
    for function in template.functions.values():
        code = f"import sys; sys.path.insert(0, ''); import {CLIENT}.bootstrap, app"
        cases[function.code.name] = (code, f"functions/{function.code.name}", function.environment(given))
    trees = {True: folder / "compiled", False: folder / "plain"}
    for compiled, tree in trees.items():
        _copy(tree, compiled)
    spent: dict[tuple[bool, str], list[float]] = {(compiled, name): [] for compiled in trees for name in cases}
    for number in range(runs):
        for compiled, tree in trees.items():
            for name, case in cases.items():
                spent[compiled, name].append(_cpu_seconds(tree, *case))
        say(f"imports: run {number + 1} of {runs}")
    return [_row(compiled, name, taken, spent[compiled, BASE]) for (compiled, name), taken in spent.items()]


def _row(compiled: bool, name: str, taken: list[float], base: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(taken, base, strict=True)]
    return {
        "import": name,
        "pyc": compiled,
        "cpu_ms": round(statistics.median(taken) * 1000, 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "aim": AIM if compiled and name != BASE else None,
    }


def _cpu_seconds(tree: Path, code: str, folder: str, environment: Mapping[str, str]) -> float:
    path = os.pathsep.join([str(tree / "layers" / "okane_common"), str(tree / "packages")])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code + _REPORT],  # -S: without the packages of .venv
        cwd=tree / folder,
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{code}: {done.stderr.strip()}")
    return float(done.stdout.split()[-1])


def _copy(tree: Path, compiled: bool) -> None:
    """The functions, the layer and its packages, all of them compiled as the layer's build does it, or none."""
    without = shutil.ignore_patterns("__pycache__")
    for source in ("functions", "layers/okane_common/okane_common"):
        shutil.copytree(ROOT / source, tree / source, ignore=without)
    for name in _packages():
        for file in metadata.files(name) or []:
            parts = file.parts
            if ".." in parts or "__pycache__" in parts or file.suffix == ".pyc":
                continue
            target = tree / "packages" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(str(file.locate())), target)
    if compiled:
        compileall.compile_dir(tree, quiet=1, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


def _packages() -> set[str]:
    """Names of the packages in the layer, the runtime client and what that needs."""
    pinned = (ROOT / "layers" / "okane_common" / "requirements.txt").read_text(encoding="utf-8")
    found = set(re.findall(r"^([a-z0-9._-]+)==", pinned, re.MULTILINE | re.IGNORECASE))
    wanted = {CLIENT, *(re.split(r"[^\w.-]", line)[0] for line in metadata.requires(CLIENT) or [])}
    return {name for name in found | wanted if _installed(name)}


def _installed(name: str) -> bool:
    """Some are for other systems only."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
