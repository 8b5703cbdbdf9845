# SPDX-License-Identifier: Apache-2.0
"""A smaller vocabulary inside a parent's: fewer rows of its largest table, all else unchanged.

A text whose tokens all stay is cut into the same tokens, and has the same states. WordPiece takes
the longest piece that there is, and BPE applies the first merge that there is; a vocabulary that
loses neither a token of the text nor, with BPE, the tokens that it is merged from, goes the same
way. Other texts fall back to smaller pieces: single characters and bytes stay, as far as they are
there. Tokenizers are the objects that `tokenizer.json` holds.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from bort_jax.model.bert import MaskedLM

P = TypeVar("P")
Tokens = Mapping[str, int]
CONTINUES = "##"


def tokens_to_keep(
    spec: Mapping[str, Any], counts: Int[np.ndarray, " v"], n: int
) -> Int[np.ndarray, " n"]:
    """The old ids of n tokens that stay, ascending: what must, then the most frequent.

    Special and added tokens must stay, single characters (WordPiece: those that continue a word
    too; byte-level BPE: the bytes), and with a token of BPE those it is merged from. Of equally
    frequent ones the first in the vocabulary stay.

    Args:
      spec: the tokenizer.
      counts: how often each token occurs in some texts.
      n: tokens to keep; fewer stay where a token with all that it needs does not fit.

    Raises:
      ValueError: a tokenizer that is neither WordPiece nor BPE, counts of another vocabulary, or
        more tokens that must stay than n.
    """
    vocab, needs = spec["model"]["vocab"], _needs(spec)
    kept = {id for token, id in _all_tokens(spec).items() if _must_stay(token, spec)}
    size = len({*_all_tokens(spec).values()})
    if len(counts) != size:
        raise ValueError(f"expected counts of {size} tokens; got {len(counts)}")
    if len(kept) > n:
        raise ValueError(f"{len(kept)} of {size} tokens must stay; asked for {n}")
    names = {id: token for token, id in vocab.items()}
    for id in np.argsort(-np.asarray(counts), kind="stable").tolist():
        missing = {vocab[token] for token in needs(names[id])} - kept if id in names else set()
        if len(kept) + len(missing) <= n:
            kept |= missing
        if len(kept) == n:
            break
    return np.array(sorted(kept))


def cut_tokenizer(spec: Mapping[str, Any], kept: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """The tokenizer with the tokens of these old ids, numbered from 0 in their order.

    Raises:
      ValueError: a tokenizer that is neither WordPiece nor BPE.
    """
    _kind(spec)
    new = {old: k for k, old in enumerate(kept.tolist())}
    model = {**spec["model"], "vocab": _renumbered(spec["model"]["vocab"], new)}
    if "merges" in model:
        model["merges"] = [m for m in model["merges"] if _stays(_pair(m), model["vocab"])]
    added = [{**t, "id": new[t["id"]]} for t in spec.get("added_tokens", []) if t["id"] in new]
    processor = _processor(spec.get("post_processor"), new)
    return {**spec, "model": model, "added_tokens": added, "post_processor": processor}


def cut_vocabulary(parent: P, kept: Int[np.ndarray, " n"]) -> P:
    """The parent with these rows of its embedding table, and of the decoder's bias.

    Its tokenizer, if it has one, must be cut alike (`cut_tokenizer`).

    Args:
      parent: a dataclass with `model`, `config` and `params`, such as an interop checkpoint.
      kept: old ids, ascending.

    Raises:
      ValueError: an id beyond the table, or the separator is not among them.
    """
    given: Any = parent
    config, params = given.config, given.params
    if kept.min() < 0 or kept.max() >= config.vocab_size:
        raise ValueError(f"expected ids below {config.vocab_size}; got up to {kept.max()}")
    if config.separator is not None and config.separator not in kept:
        raise ValueError(f"the separator, {config.separator}, is not among the {len(kept)} tokens")
    new_id = lambda id: None if id is None else int(np.searchsorted(kept, id))
    own = {name: new_id(getattr(config, name)) for name in ("separator", "padding")}
    encoder = params["encoder"]
    table = np.asarray(encoder["embeddings"]["word"]["embedding"])[kept]
    embeddings = {**encoder["embeddings"], "word": {"embedding": table}}
    params = {**params, "encoder": {**encoder, "embeddings": embeddings}}
    if isinstance(given.model, MaskedLM):
        params["head"] = {**params["head"], "bias": np.asarray(params["head"]["bias"])[kept]}
    config = replace(config, vocab_size=len(kept), **own)
    return replace(given, config=config, params=params)


def _kind(spec: Mapping[str, Any]) -> str:
    kind = spec["model"].get("type")
    if kind not in ("WordPiece", "BPE"):
        raise ValueError(f"vocabularies of WordPiece and BPE can be cut; this tokenizer is {kind}")
    return kind


def _all_tokens(spec: Mapping[str, Any]) -> Tokens:
    return {
        **spec["model"]["vocab"],
        **{t["content"]: t["id"] for t in spec.get("added_tokens", [])},
    }


def _must_stay(token: str, spec: Mapping[str, Any]) -> bool:
    special = {t["content"] for t in spec.get("added_tokens", [])} | {
        spec["model"].get("unk_token")
    }
    continues = spec["model"].get("continuing_subword_prefix") or CONTINUES
    return token in special or len(token.removeprefix(continues)) == 1


def _needs(spec: Mapping[str, Any]) -> Callable[[str], Iterable[str]]:
    """Builds `token -> it, and all that it is made of`."""
    if _kind(spec) == "WordPiece":
        return lambda token: {token}
    ranks = {_pair(merge): rank for rank, merge in enumerate(spec["model"]["merges"])}
    vocab = spec["model"]["vocab"]
    return lambda token: {part for part in merge_parts(token, ranks) if part in vocab} | {token}


def merge_parts(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """Every symbol that stands somewhere while BPE makes a token of its characters."""
    parts, seen = list(token), {*token}
    while len(parts) > 1:
        pairs = list(zip(parts, parts[1:], strict=False))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        parts[at : at + 2] = ["".join(best)]
        seen.add(parts[at])
    return seen


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _stays(pair: tuple[str, str], vocab: Tokens) -> bool:
    return pair[0] in vocab and pair[1] in vocab and "".join(pair) in vocab


def _renumbered(vocab: Tokens, new: Mapping[int, int]) -> dict[str, int]:
    kept = ((token, new[id]) for token, id in vocab.items() if id in new)
    return dict(sorted(kept, key=lambda entry: entry[1]))


def _processor(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with the new ids of the tokens that it puts around a text."""
    if not isinstance(processor, dict):
        return processor
    changed = dict(processor)
    for name in ("cls", "sep"):
        if name in changed:
            changed[name] = [changed[name][0], new[changed[name][1]]]
    if "special_tokens" in changed:
        changed["special_tokens"] = {
            token: {**entry, "ids": [new[id] for id in entry["ids"]]}
            for token, entry in changed["special_tokens"].items()
        }
    if "processors" in changed:
        changed["processors"] = [_processor(one, new) for one in changed["processors"]]
    return changed
