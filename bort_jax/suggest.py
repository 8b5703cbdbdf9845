# SPDX-License-Identifier: Apache-2.0
"""The nearest valid choice, for the end of an error message."""

from difflib import get_close_matches

LONGEST, MOST = 80, 40  # characters of a value, and choices, in a message


def nearest(wanted: str, choices) -> str:
    """The end of an error message: the nearest of `choices` and all of them, or the first 40."""
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(wanted), choices, n=1, cutoff=0.5)
    more = f" and {len(choices) - MOST:,} more" if len(choices) > MOST else ""
    # Blanks around a name are seen in quotes alone.
    shown = (shorten(name) if name == name.strip() else repr(name) for name in choices[:MOST])
    listed = ", ".join(shown) + more
    return (f"; did you mean {shorten(repr(close[0]))}?" if close else ";") + f" it has {listed}"


def shorten(text: str) -> str:
    """A text of a message in one line, cut at `LONGEST` characters."""
    line = " ".join(text[: 2 * LONGEST].split())
    return line if len(line) <= LONGEST and len(text) <= 2 * LONGEST else line[:LONGEST] + "…"


def suggestion(word: str, choices) -> str:
    close = get_close_matches(word, list(choices), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
