"""docs/errors.md: every code under its heading, with an example that is what the code says."""

import json
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from okane_common.errors import CODES, DETAILS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
LAYER = ROOT / "layers" / "okane_common" / "okane_common"
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "request_id", "retryable"}
# Recorded refusals: the example must show the transaction.
RECORDED = {"insufficient_funds", "limit_exceeded", "wallet_frozen"}


def sections() -> dict[str, tuple[int, str]]:
    """Code -> the status under whose heading it stands, and its text."""
    found: dict[str, tuple[int, str]] = {}
    for part in re.split(r"^## (?=\d{3}$)", TEXT, flags=re.MULTILINE)[1:]:
        status = int(part[:3])
        for entry in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
            code, _, text = entry.partition("\n")
            assert code not in found, f"{code} has two headings"
            found[code] = (status, text)
    return found


SECTIONS = sections()


def examples(text: str) -> list[dict[str, Any]]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)]


def test_every_code_has_its_heading_and_no_other_has() -> None:
    assert set(SECTIONS) == set(CODES)


def test_every_refusal_in_the_code_is_a_code() -> None:
    """A code that is raised but not in CODES would be a KeyError in the middle of a refusal."""
    sources = [*LAYER.glob("*.py"), *ROOT.glob("functions/*/app.py")]
    raised = {
        code
        for source in sources
        for code in re.findall(r"\b(?:Refusal|refuse)\(\s*\"(\w+)\"", source.read_text(encoding="utf-8"))
    }
    assert raised
    assert raised <= set(CODES)
    assert set(DETAILS) <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_explained_as_it_is(code: str) -> None:
    known = CODES[code]
    status, text = SECTIONS[code]
    assert status == known.status
    assert HTTPStatus(known.status).is_client_error or known.status == 503
    assert len(text.partition("```")[0].split()) >= 8, "what it means, and what to do"
    [example] = examples(text)
    assert set(example) - {"errors", "transaction_id", "limit"} == PROBLEM_FIELDS
    assert (example["code"], example["status"], example["title"]) == (code, known.status, known.title)
    assert example["retryable"] == known.retryable
    assert example["type"].endswith(f"docs/errors.md#{code}")
    assert ("errors" in example) == (code == "validation_failed")
    assert ("limit" in example) == (code == "limit_exceeded")
    assert ("transaction_id" in example) == (code in RECORDED)
    if code in DETAILS:
        assert example["detail"] == DETAILS[code]


def test_the_first_example_is_one_too() -> None:
    first = examples(TEXT)[0]
    assert first["code"] in RECORDED
    assert first["title"] == CODES[first["code"]].title


def test_the_number_of_retryable_codes_is_right() -> None:
    count = sum(code.retryable for code in CODES.values())
    assert f"`retryable` is true for {['no', 'one', 'two', 'three', 'four', 'five'][count]} codes" in TEXT


def test_the_links_of_problems_lead_here() -> None:
    """The template's DocsUrl is this file, and a heading's anchor on GitHub is the heading itself."""

    class Loader(yaml.SafeLoader):
        """Reads CloudFormation's tags as nothing."""

    Loader.add_multi_constructor("!", lambda *_: None)
    template = yaml.load((ROOT / "template.yaml").read_text(encoding="utf-8"), Loader=Loader)
    assert template["Parameters"]["DocsUrl"]["Default"].endswith("/docs/errors.md")
    assert all(re.fullmatch("[a-z_]+", code) for code in CODES)


def test_links_to_other_pages_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in CODES, anchor
