# SPDX-License-Identifier: Apache-2.0
"""Reading a folder's tokenizer as stock `AutoTokenizer` does, without running code of its own."""

from pathlib import Path
from typing import Any

from bort_jax.data.tokenizer import ROLES, SETTINGS, Tokenizer
from bort_jax.storage.files import check_pointer, read_json
from bort_jax.storage.hub import TOKENIZER, tokenizer_folder
from bort_jax.storage.native import native_errors

NO_TOKENIZER = "no tokenizer: tokenizer.json, vocab.txt, or vocab.json with merges.txt would be one"
BESIDE = ("special_tokens_map.json", "added_tokens.json")  # in older folders
# What stock classes call a tokenizer that has no limit.
NO_LIMIT = 10**30
LARGEST_ID = 1 << 24  # many times the largest vocabulary
PROBE = "A probe: naïve [SEP] 日本 </s> é\u0301 🙂"


def load_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder, as stock `AutoTokenizer` reads it.

    It is `tokenizer.json`, `vocab.txt` (BERT) or `vocab.json` with `merges.txt` (RoBERTa), with
    every setting and added token of the files beside it; None where none is there.

    Raises:
      ValueError: a file is damaged, or lacks the special tokens.
    """
    folder = Path(folder)
    files = [folder / name for name in TOKENIZER]
    there = [file for file in files if file.is_file()]
    names = {file.name for file in there}
    if not {"tokenizer.json", "vocab.txt"} & names and not {"vocab.json", "merges.txt"} <= names:
        return None
    for file in there:
        check_pointer(file)
        _check_mark(file)
        _check_largest(file)
    settings = _read_settings(folder, SETTINGS)
    written = None if names & {*BESIDE} else _load_own(folder / "tokenizer.json", settings)
    return written or _load_stock(folder, settings, _stock_class(folder, settings))


def require_tokenizer(folder: str | Path) -> Tokenizer:
    """As `load_tokenizer`, of a hub's model too.

    Raises:
      FileNotFoundError: there is none. (A stock loader would silently make a tokenizer of five
        tokens.)
      ValueError: it is damaged, or lacks the special tokens.
    """
    found = load_tokenizer(tokenizer_folder(folder))
    if found is None:
        raise FileNotFoundError(f"no tokenizer.json in {folder}")
    return found


def _check_mark(file: Path) -> None:
    """Raises ValueError for a byte order mark where stock classes would take it for a token's."""
    with file.open("rb") as opened:
        if file.suffix == ".txt" and opened.read(3) == b"\xef\xbb\xbf":
            raise ValueError(f"{file} begins with a byte order mark: save it as UTF-8 without one")


def _check_largest(file: Path) -> None:
    """Raises ValueError for an id that no vocabulary reaches: tokenizers goes through all ids below
    the largest, and takes memory for each."""
    if file.name not in ("tokenizer.json", "vocab.json"):
        return
    try:
        found = read_json(file)
    except ValueError:  # what is wrong is said where it is read
        return
    model = found if file.name == "vocab.json" else found.get("model")
    vocabulary = model.get("vocab", model) if isinstance(model, dict) else {}
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    largest = max((id for id in ids if isinstance(id, int)), default=0)
    if largest >= LARGEST_ID:
        raise ValueError(f"{file}: a token has the id {largest:,}, and ids count up from 0")


def _read_settings(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _load_own(file: Path, settings: dict[str, Any]) -> Tokenizer | None:
    """What `save` wrote: then `tokenizer.json` says all, and stock classes need no import."""
    if not file.is_file() or settings.get("tokenizer_class") != "PreTrainedTokenizerFast":
        return None
    from tokenizers import Tokenizer as Backend

    limit, split = settings.get("model_max_length"), settings.get("split_special_tokens")
    roles = {role: settings[role] for role in ROLES if isinstance(settings.get(role), str)}
    try:
        with native_errors(f"{file} is no tokenizer that can be read"):
            backend = Backend.from_file(str(file))
        found = Tokenizer(backend, roles=roles, max_length=_limit(limit), split=split is True)
    except ValueError as error:
        raise ValueError(f"{file}: {error}" if str(file) not in str(error) else error) from error
    _probe(found, str(file))
    return found if found.settings(found.max_length) == settings else None


def _stock_class(folder: Path, settings: dict[str, Any]) -> str:
    """The class that `AutoTokenizer` would choose; it reads files alone, and never runs code."""
    config = _read_settings(folder, "config.json")
    kinds = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "bort": "BertTokenizer"}
    by_file = "BertTokenizer" if (folder / "vocab.txt").is_file() else "RobertaTokenizer"
    if (folder / "tokenizer.json").is_file():
        by_file = "PreTrainedTokenizerFast"
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    return str(named or kinds.get(str(config.get("model_type")), by_file)).removesuffix("Fast")


def _load_stock(folder: Path, settings: dict[str, Any], name: str) -> Tokenizer:
    import transformers

    generic = transformers.PreTrainedTokenizerFast
    kind = getattr(transformers, name, None) if name.endswith("Tokenizer") else None
    if not isinstance(kind, type) or not issubclass(kind, generic):
        kind = generic
    mask: dict[str, Any] = {}
    bare = not (folder / "tokenizer.json").is_file() and "mask_token" not in settings
    if bare and kind is transformers.RobertaTokenizer:
        # Its own tokenizer.json says so, and version 4 did: a mask takes the blank before it.
        mask = {"mask_token": transformers.AddedToken("<mask>", lstrip=True)}
    with native_errors(f"{folder} holds no tokenizer that can be read"):
        stock = kind.from_pretrained(str(folder), local_files_only=True, **mask)
        roles = {role: getattr(stock, role) for role in ROLES}
        split, limit = bool(getattr(stock, "split_special_tokens", False)), stock.model_max_length
    if getattr(stock, "truncation_side", "right") != "right":
        raise ValueError(
            f"{folder}: truncation_side {stock.truncation_side!r}: here texts are cut at their end"
        )
    given: dict[str, str] = {role: of for role, of in roles.items() if isinstance(of, str)}
    notes = _assumptions(folder, settings)
    try:
        found = Tokenizer(
            stock.backend_tokenizer,
            roles=given,
            max_length=_limit(limit),
            split=split,
            notes=notes,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    _probe(found, str(folder))
    return found


def _limit(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < NO_LIMIT else None


def _probe(tokenizer: Tokenizer, source: str) -> None:
    """Cuts a text: some damage shows only then."""
    with native_errors(f"{source} is no tokenizer that can be used"):
        tokenizer.encode_documents([PROBE])


def _assumptions(folder: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    """What no file says: whether a bare `vocab.txt` with capital letters is lower-cased first."""
    vocabulary = folder / "vocab.txt"
    if (folder / "tokenizer.json").is_file() or "do_lower_case" in settings:
        return ()
    tokens = vocabulary.read_text(errors="replace").split() if vocabulary.is_file() else []
    if not any(token != token.lower() for token in tokens if token[:1] + token[-1:] != "[]"):
        return ()
    return (
        f"{vocabulary} has tokens with capital letters and no {SETTINGS} beside it says "
        "do_lower_case: texts are lower-cased, as stock classes assume",
    )
