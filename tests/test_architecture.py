"""The rules of the code base, read from the sources: who may import whom, how long things get, what no file holds.

A rule is a function from a file (its path in the checkout, its text) to what is wrong with it. RULES says which files each
holds for and shows it a file that breaks it, so that a rule which cannot fail is a red test too.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Third-party library -> the only layer modules that may import it. pydantic is everywhere, with the words it takes from
# annotated_types: it is how types are checked.
LIBRARIES = {
    "psycopg": {"database"},
    "jwt": {"tokens"},
    "argon2": {"passwords"},
    "zxcvbn": {"passwords"},
    "authlib": {"provider"},
    "joserfc": {"provider"},
    "boto3": {"aws"},
    "botocore": {"aws"},
    "standardwebhooks": {"webhooks"},
    "aws_lambda_powertools": {"api", "observability"},
}
EVERYWHERE = {"pydantic", "annotated_types", "okane_common", *sys.stdlib_module_names}
LATE = {"argon2", "authlib", "boto3", "botocore", "joserfc", "zxcvbn"}  # import them inside functions
NOT_DEPLOYED = {"local", "tests", "bench", "database"}
VAGUE_WORDS = ("common", "helper", "manager", "misc", "repositorie", "repository", "service", "util")
VAGUE_NAMES = {form for word in VAGUE_WORDS for form in (word, f"{word}s")}
HANDLER_LINES = 200  # auth has 23 routes, and is the longest
MODULE_LINES = 450
FUNCTION_LINES = 70

FUNCTIONS = ("functions/*/*.py",)
LAYER = ("layers/okane_common/okane_common/*.py",)
DEPLOYED = FUNCTIONS + LAYER
PYTHON = ("*.py", "okane")
DOCUMENTS = ("*.md",)

type Rule = Callable[[str, str], list[str]]


class Import(NamedTuple):
    """One name that a file imports, with dots; `late` inside a function or for type checkers only."""

    name: str
    line: int
    late: bool

    @property
    def library(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


def imports_of(text: str) -> Iterator[Import]:
    """Every import of a file; `from a import b` gives a.b, a relative one begins with a dot."""

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Import():
                    yield from (Import(alias.name, child.lineno, late) for alias in child.names)
                case ast.ImportFrom():
                    origin = "." * child.level + (child.module or "")
                    yield from (Import(f"{origin}.{alias.name}", child.lineno, late) for alias in child.names)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield from visit(child, True)
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    yield from visit(child, True)
                case _:
                    yield from visit(child, late)

    yield from visit(ast.parse(text), False)


def functions_import_the_layer_only(path: str, text: str) -> list[str]:
    return [
        f"line {one.line}: imports {one.name}; a function imports okane_common, pydantic and the standard library"
        for one in imports_of(text)
        if one.library not in EVERYWHERE
    ]


def one_library_one_module(path: str, text: str) -> list[str]:
    faults = []
    for one in imports_of(text):
        if one.library in EVERYWHERE or Path(path).stem in LIBRARIES.get(one.library, ()):
            continue
        places = " or ".join(sorted(f"{name}.py" for name in LIBRARIES.get(one.library, ()))) or "no module yet"
        faults.append(f"line {one.line}: imports {one.name}; the place for {one.library or 'it'} is {places}")
    return faults


def slow_libraries_are_imported_late(path: str, text: str) -> list[str]:
    return [
        f"line {one.line}: imports {one.library} at the top; import it inside the function that uses it"
        for one in imports_of(text)
        if one.library in LATE and not one.late
    ]


def nothing_deployed_imports_the_workshop(path: str, text: str) -> list[str]:
    return [
        f"line {one.line}: imports {one.name}, which is never deployed"
        for one in imports_of(text)
        if one.library in NOT_DEPLOYED
    ]


def cache_and_ledger_are_strangers(path: str, text: str) -> list[str]:
    other = {"cache": "okane_common.ledger", "ledger": "okane_common.cache"}.get(Path(path).stem)
    return [
        f"line {one.line}: imports {other}; the handler composes the two"
        for one in imports_of(text)
        if other is not None and f"{one.name}.".startswith(f"{other}.")
    ]


def only_settings_reads_the_environment(path: str, text: str) -> list[str]:
    if Path(path).name == "settings.py":
        return []
    words = {"environ", "environb", "getenv", "getenvb", "putenv"}
    lines = [one.line for one in imports_of(text) if one.library == "os" and one.name.split(".")[-1] in words]
    lines += [
        node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute) and node.attr in words
    ]
    return [f"line {line}: reads the environment; ask okane_common.settings" for line in lines]


def names_say_what_is_inside(path: str, text: str) -> list[str]:
    vague = VAGUE_NAMES.intersection(Path(path).with_suffix("").parts)
    return [f"{name!r} says nothing about what is inside" for name in sorted(vague)]


def handlers_are_short(path: str, text: str) -> list[str]:
    return _too_long("the handler", text.count("\n"), HANDLER_LINES)


def modules_are_short(path: str, text: str) -> list[str]:
    return _too_long("the module", text.count("\n"), MODULE_LINES)


def functions_are_short(path: str, text: str) -> list[str]:
    faults: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            faults += _too_long(f"{node.name}()", lines, FUNCTION_LINES)
    return faults


def _too_long(what: str, lines: int, most: int) -> list[str]:
    return [f"{what} has {lines} lines, more than {most}"] if lines > most else []


def functions_hold_no_sql(path: str, text: str) -> list[str]:
    statement = re.compile(
        r"\s*(select\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|with\s+\w+\s+as\s|call\s+\w+\()", re.I
    )
    tree = ast.parse(text)
    return [
        f"line {node.lineno}: SQL belongs into the layer"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.match(node.value)
    ]


def nothing_is_caught_blindly(path: str, text: str) -> list[str]:
    return [
        f"line {node.lineno}: catches everything; name what is expected"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or {"Exception", "BaseException"}
            & {ast.unparse(part) for part in ast.walk(node.type) if isinstance(part, ast.Name)}
        )
    ]


def public_things_have_docstrings(path: str, text: str) -> list[str]:
    tree = ast.parse(text)
    faults = [] if ast.get_docstring(tree) or not tree.body else ["the module has no docstring"]
    owners: list[ast.Module | ast.ClassDef] = [tree]
    while owners:
        for node in owners.pop().body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                owners.append(node)
            # A route says what it does in its decorator, and every lambda_handler does the same.
            elif node.name == "lambda_handler" or any("app.route(" in ast.unparse(one) for one in node.decorator_list):
                continue
            if not ast.get_docstring(node):
                faults.append(f"line {node.lineno}: {node.name} has no docstring")
    return faults


def no_emoji(path: str, text: str) -> list[str]:
    return _lines_with(text, "[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]", "has an emoji")


def nothing_is_left_to_do(path: str, text: str) -> list[str]:
    return _lines_with(text, r"\b(TO[D]O|FIX[M]E)\b", "is unfinished; finish it, or file an issue")


def no_registry_hosts(path: str, text: str) -> list[str]:
    return _lines_with(text, r"(pypi|pythonhosted|npmjs|crates)\.(org|io)", "names a registry's host")


def no_paths_of_one_machine(path: str, text: str) -> list[str]:
    return _lines_with(text, r"(?<![\w.}-])/(?:work|root)/[\w.]", "has a path of one machine")


def documents_do_not_shout(path: str, text: str) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`|!\[|<!--", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    return _lines_with(prose, r"!(?!=)", "has an exclamation mark")


def _lines_with(text: str, pattern: str, fault: str) -> list[str]:
    expression = re.compile(pattern)
    return [f"line {number}: {fault}" for number, line in enumerate(text.splitlines(), 1) if expression.search(line)]


class Case(NamedTuple):
    """A rule, the files that it holds for, and a file (path, text) that breaks it."""

    rule: Rule
    files: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]


AUTH = "functions/auth/app.py"
MONEY = "layers/okane_common/okane_common/money.py"
RULES = [
    Case(
        functions_import_the_layer_only,
        FUNCTIONS,
        (
            (AUTH, "import psycopg"),
            (AUTH, "from aws_lambda_powertools import Logger"),
            (AUTH, "def f():\n    import boto3"),
            (AUTH, "from functions.wallet import app"),
            (AUTH, "from . import more"),
        ),
    ),
    Case(
        one_library_one_module,
        LAYER,
        ((MONEY, "import psycopg.rows"), (MONEY, "def f():\n    from boto3 import client"), (MONEY, "import requests")),
    ),
    Case(
        slow_libraries_are_imported_late,
        DEPLOYED,
        (
            ("layers/okane_common/okane_common/passwords.py", "import argon2"),
            ("layers/okane_common/okane_common/aws.py", "try:\n    import boto3\nfinally:\n    pass"),
        ),
    ),
    Case(
        nothing_deployed_imports_the_workshop,
        DEPLOYED,
        ((MONEY, "from local.http import serve"), (AUTH, "import tests")),
    ),
    Case(
        cache_and_ledger_are_strangers,
        LAYER,
        (
            ("layers/okane_common/okane_common/cache.py", "from okane_common import ledger"),
            ("layers/okane_common/okane_common/ledger.py", "from okane_common.cache import look"),
        ),
    ),
    Case(
        only_settings_reads_the_environment,
        DEPLOYED,
        ((MONEY, "import os\nos.environ['X']"), (AUTH, "from os import getenv"), (MONEY, "import os\nos.getenv('X')")),
    ),
    Case(
        names_say_what_is_inside,
        PYTHON,
        (("local/utils.py", ""), ("layers/okane_common/okane_common/services/a.py", "")),
    ),
    Case(handlers_are_short, FUNCTIONS, ((AUTH, "x = 1\n" * (HANDLER_LINES + 1)),)),
    Case(modules_are_short, PYTHON, ((MONEY, "x = 1\n" * (MODULE_LINES + 1)),)),
    Case(functions_are_short, PYTHON, ((MONEY, "class A:\n  async def f(self):\n" + "    x = 1\n" * FUNCTION_LINES),)),
    Case(functions_hold_no_sql, FUNCTIONS, ((AUTH, "q = 'SELECT 1'"), (AUTH, "q = f'''\n update people set {x}'''"))),
    Case(
        nothing_is_caught_blindly,
        DEPLOYED,
        (
            (AUTH, "try:\n    f()\nexcept:\n    pass"),
            (AUTH, "try:\n    f()\nexcept (ValueError, Exception):\n    pass"),
            (MONEY, "try:\n    f()\nexcept BaseException as error:\n    raise"),
        ),
    ),
    Case(
        public_things_have_docstrings,
        DEPLOYED,
        (
            (MONEY, "x = 1"),
            (MONEY, '"""x"""\ndef f():\n    pass'),
            (MONEY, '"""x"""\nclass A:\n    """x"""\n    def f(self):\n        pass'),
        ),
    ),
    Case(no_emoji, ("*",), (("README.md", "Done \N{PARTY POPPER}"), ("a.py", "# \N{HEAVY CHECK MARK}"))),
    # Put together, so that this file itself keeps the rules.
    Case(nothing_is_left_to_do, ("*",), (("a.sql", "-- TO" + "DO"), ("a.py", "# FIX" + "ME: later"))),
    Case(no_registry_hosts, ("*",), (("r.txt", "--index-url https://pypi" + ".org/simple"), ("a", "x.npmjs" + ".org"))),
    Case(no_paths_of_one_machine, ("*",), (("a.md", "cd /work" + "/main"), ("a.py", "'/root" + "/.cache'"))),
    Case(documents_do_not_shout, DOCUMENTS, (("README.md", "It works!\n"), ("README.md", "```\na\n```\nReady! Go.\n"))),
]


def sources() -> Iterator[tuple[str, str]]:
    """Path and text of every file that is, or is about to be, committed; without git, of every file not hidden."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    else:
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        listed = [str(path) for path in found if not any(part.startswith(".") for part in path.parts)]
    for path in sorted(set(listed) - {""}):
        file = ROOT / path
        if file.is_file():
            text = file.read_bytes().decode("utf-8", "replace")
            if "\0" not in text:
                yield path, text


SOURCES = dict(sources())


def name_of(case: Case) -> str:
    """The rule's name, as a test's."""
    return case.rule.__name__


@pytest.mark.parametrize("case", RULES, ids=name_of)
def test_rule_holds(case: Case) -> None:
    faults = [
        f"{path}: {fault}"
        for path, text in SOURCES.items()
        if any(fnmatch(path, pattern) for pattern in case.files)
        for fault in case.rule(path, text)
    ]
    if faults:
        pytest.fail(f"{name_of(case)}:\n" + "\n".join(faults), pytrace=False)


@pytest.mark.parametrize("case", RULES, ids=name_of)
def test_rule_can_fail(case: Case) -> None:
    for path, text in case.broken:
        assert any(fnmatch(path, pattern) for pattern in case.files), f"the rule does not look at {path}"
        assert case.rule(path, text), f"the rule accepts {text!r}"


@pytest.mark.parametrize("case", RULES, ids=name_of)
def test_rule_has_files_to_look_at(case: Case) -> None:
    assert [path for path in SOURCES if any(fnmatch(path, pattern) for pattern in case.files)]


GOOD = '''"""A module."""
import os.path
from typing import TYPE_CHECKING
from okane_common import errors
from pydantic import Field
if TYPE_CHECKING:
    from argon2 import PasswordHasher
def look() -> None:
    """Do not select from anything but the shelf; x != y."""
    import zxcvbn
    try:
        zxcvbn.zxcvbn(PasswordHasher)
    except (ValueError, errors.Refusal):
        raise
'''


@pytest.mark.parametrize("case", RULES, ids=name_of)
def test_rule_accepts_what_is_right(case: Case) -> None:
    path = AUTH if case.rule is functions_hold_no_sql else "layers/okane_common/okane_common/passwords.py"
    if case.rule is functions_import_the_layer_only:
        assert not case.rule(AUTH, "import json\nfrom okane_common import api\nfrom pydantic import Field")
    else:
        assert not case.rule(path, GOOD)


def test_documents_may_show_code() -> None:
    assert not documents_do_not_shout("README.md", "`a != b`, ![picture](x.png)\n```\nrun! now!\n```\n<!-- note -->\n")
