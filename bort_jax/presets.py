# SPDX-License-Identifier: Apache-2.0
"""YAML presets: values as they are typed, in a bounded size and depth."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from bort_jax.storage.files import check_pointer

LARGEST = 1 << 20  # bytes
DEEPEST = 32
MOST = 20_000  # values, each alias counted with all that it stands for


def check_files(argv: list[str]) -> None:
    """Raises ValueError where a preset is too large to be read, no UTF-8, or a Git LFS pointer."""
    for file in _config_files(argv):
        if not file.is_file():
            continue  # the parser says it
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{file}: {file.stat().st_size} bytes; a preset has at most {LARGEST}")
        check_pointer(file)
        try:
            check_yaml(file.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8, at byte {error.start}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: {error}") from error


def _config_files(argv: list[str]) -> Iterable[Path]:
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == "--config":
            yield Path(following)
        elif word.startswith("--config="):
            yield Path(word.removeprefix("--config="))


def check_yaml(text: str) -> None:
    """Raises ValueError where a document is too deep or, its aliases written out, too large."""
    import yaml

    sizes: dict[str, int] = {}
    anchors: list[tuple[str | None, int]] = []  # of the collections that are open: where they began
    count = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                count += sizes.get(event.anchor, 1)
            elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
                count += 1
                if isinstance(event, yaml.CollectionStartEvent):
                    anchors.append((event.anchor, count))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, start = anchors.pop()
                if anchor:
                    sizes[anchor] = count - start + 1
            if len(anchors) > DEEPEST or count > MOST:
                raise ValueError(
                    f"nested deeper than {DEEPEST}, or more than {MOST:,} values with aliases "
                    "written out: no preset"
                )
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error


def load_typed(text: str) -> Any:
    """The value of an option, or a preset: what stands in lists and mappings stays text as typed.

    The options' types decide what is a number and what is true. YAML alone would take `no` for
    false, `007` for 7 and `3:00` for 180.
    """
    import yaml

    value = _library_loader()(text)
    if not isinstance(value, (list, dict)):
        return value
    check_yaml(text)
    return yaml.load(text, Loader=yaml.CBaseLoader)


@cache
def _library_loader() -> Callable[[str], Any]:
    """jsonargparse's own reader of YAML, as it was before `keep_texts`."""
    from jsonargparse import get_loader

    return get_loader("yaml")


def keep_texts() -> None:
    """Makes `load_typed` the reader of presets and of options."""
    import yaml
    from jsonargparse import set_loader

    _library_loader()
    set_loader("yaml", load_typed, (yaml.YAMLError, ValueError))
