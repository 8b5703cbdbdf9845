# SPDX-License-Identifier: Apache-2.0
"""A labeller for Agora runs that are mutated."""


def answer(texts):
    return ["yes" if "good" in text[0] else "no" for text in texts]
