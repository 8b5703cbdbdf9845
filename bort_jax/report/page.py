# SPDX-License-Identifier: Apache-2.0
"""One HTML file that opens without a server: text, tables, and pictures as inline SVG."""

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bort_jax.report.terminal import format_value
from bort_jax.storage.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #d8dee4; text-align: left;
         vertical-align: top }
td.number { text-align: right } .scroll { overflow-x: auto }
figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
figcaption, .note { color: #57606a; font-size: .92rem }
"""


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return f"<td{' class=number' if number else ''}>{escape(format_value(value))}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def figure(drawn, caption: str) -> str:
    """A matplotlib figure as inline SVG; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", bbox_inches="tight")
    plt.close(drawn)
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"


def write_page(file: Path, title: str, blocks: Iterable[str]) -> Path:
    """Writes the page; blocks are what the functions above return."""
    write_text(
        file,
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1>{''.join(blocks)}</html>",
    )
    return file
