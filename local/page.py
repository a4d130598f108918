"""What the pages of the local servers share: one style, no scripts, everything from outside escaped."""

from collections.abc import Mapping
from html import escape

from local.http import Response

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --main: #0b5fa5; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.25rem; margin: 0 0 1rem; }
.amount { font-size: 2rem; font-weight: 600; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0 0 1.5rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
button { font: inherit; padding: .6rem 1.4rem; border: 1px solid var(--main); border-radius: .5rem;
  background: none; color: inherit; cursor: pointer; }
button.main { background: var(--main); color: #fff; }
details { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1rem; }
summary { cursor: pointer; }
label { display: flex; justify-content: space-between; gap: 1rem; align-items: center; padding: .3rem 0; }
input:not([type=checkbox]), select { font: inherit; width: 14rem; max-width: 55%; padding: .2rem .4rem; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem 1rem 0; margin: 0 0 1rem; }
article dl { margin-bottom: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }
code { background: var(--soft); border-radius: .25rem; padding: .1rem .3rem; }
.note { opacity: .7; font-size: .9rem; }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"


def page(status: int, title: str, body: str) -> Response:
    """A whole page; the title is escaped here, the body is HTML already."""
    response = Response.html(
        status,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>",
    )
    response.headers.extend([("Cache-Control", "no-store"), ("Content-Security-Policy", POLICY)])
    return response


def definitions(facts: Mapping[str, object]) -> str:
    """Names and values below each other, escaped."""
    rows = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()
    )
    return f"<dl>{rows}</dl>"
