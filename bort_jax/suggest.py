# SPDX-License-Identifier: Apache-2.0
"""The nearest valid choice, for the end of an error message."""

from difflib import get_close_matches


def nearest(wanted: str, choices) -> str:
    """The end of an error message: the nearest of `choices` and all of them."""
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(wanted), choices, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" it has {', '.join(choices)}"


def suggestion(word: str, choices) -> str:
    close = get_close_matches(word, list(choices), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
