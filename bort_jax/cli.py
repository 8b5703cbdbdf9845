# SPDX-License-Identifier: Apache-2.0
"""`bort-jax VERB --config configs/x.yaml --dotted.override value`."""

import dis
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from bort_jax.huge_pages import restart_with_huge_pages
from bort_jax.presets import check_files, keep_texts
from bort_jax.storage.caches import cache_folder
from bort_jax.storage.native import shorten
from bort_jax.suggest import suggestion

VERBS = {
    "quickstart": "compress a real model on real movie reviews, in minutes, on a laptop",
    "compress": "make your own model small: extract inside it, distil, compare, export",
    "extract": "find the architecture with the best trade of size, cost and error",
    "cost": "count parameters and multiply-adds of an architecture, exactly",
    "data": "build a corpus from text, cache a teacher on it, or check either",
    "pretrain": "train a masked LM, alone or by distillation from a teacher",
    "finetune": "train a classifier from a checkpoint, over rates and seeds",
    "tasks": "the 23 test sets of GLUE, SuperGLUE and RACE: list them, or check a folder of them",
    "agora": "fine-tune where data is scarce, with a second model's labels",
    "evaluate": "score a checkpoint and write its predictions",
    "predict": "answer a file of any size: labels, filled masks or embeddings",
    "submit": "predict test sets, write the leaderboards' files, and check them",
    "convert": "write a checkpoint as a folder that stock transformers or ONNX Runtime loads",
    "bench": "time a model in every form that it can be served in, side by side",
    "push": "upload a model, its card and its report to the Hugging Face hub",
    "doctor": "say what this machine has and whether training would work on it",
}
TRAIN = {
    "quickstart",
    "compress",
    "extract",
    "pretrain",
    "finetune",
    "agora",
}  # page faults are felt in these
HUGE_PAGES = "on CPUs, start again with a malloc that asks Linux for huge pages (fewer page faults)"
SPELLINGS = {"--from": "--from_run"}  # `from` is a word of Python's
LONGEST = 600  # characters of an error's line
LONGEST_TRACE = 1 << 20
WRONG_TYPE = re.compile(r"""Parser key "([\w.]+)": Expected an? <class '(\w+)'>. Got value: (.*)""")
KINDS = {"int": "a whole number", "float": "a number", "tuple": "a list such as [{}]"}
CONFIGS = [Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs"]


def main(argv: list[str] | None = None) -> None:
    as_program = argv is None  # only then can it start again
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
    elif argv[0] in ("-V", "--version"):
        from importlib.metadata import version

        print("bort-jax", version("bort-jax"))
    elif argv[0] not in VERBS:
        fail(f"no verb {argv[0]!r}{suggestion(argv[0], VERBS)}; verbs: {', '.join(VERBS)}", code=2)
    else:
        run_verb(argv[0], with_presets(argv[0], argv[1:]), as_program=as_program)


def run_verb(verb: str, argv: list[str], *, as_program: bool = False) -> None:
    """Parses the verb's options and runs it; whatever is raised is one line."""
    options: dict = {}
    with door(options):
        module = import_module(f"bort_jax.commands.{verb}")
        options |= read_options(verb, module, argv)
        if options.pop("huge_pages", False) and as_program:
            restart_with_huge_pages()
        keep_compilations()
        module.run(module.Config(**options))


@contextmanager
def door(options: dict) -> Iterator[None]:
    """Whatever is raised inside ends the program with one line.

    Args:
      options: of the verb; `out` is the folder that a trace is written to.
    """
    try:
        yield
    except (SystemExit, GeneratorExit):
        raise
    except KeyboardInterrupt:
        fail("interrupted; what was finished is kept, and the same command resumes", code=130)
    except BaseException as error:  # a panic of Rust is no Exception
        if os.environ.get("BORT_JAX_TRACEBACK"):
            raise
        answer(error, options.get("out"))


def answer(error: BaseException, out: str | None) -> NoReturn:
    """Ends the program with one line that says what went wrong."""
    line = shorten(error, longest=LONGEST)
    if hasattr(error, "exit_code"):  # it says itself what it means
        fail(line, code=error.exit_code)  # pyright: ignore[reportAttributeAccessIssue]
    if is_refusal(error):
        fail(line, code=1)
    if isinstance(error, MemoryError):
        line = f"not enough memory: {line}"
    file = write_trace(error, out)
    where = f"; the trace is in {file}" if file else ""
    fail(f"unexpected {type(error).__name__}: {line}{where}", code=1)


def is_refusal(error: BaseException) -> bool:
    """Whether an error is the user's to mend: of a file, of what is not installed, or a ValueError
    in this package's own words. One that a library raised while it was called is none."""
    if not isinstance(error, ValueError):
        return isinstance(error, (OSError, ImportError))
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    if last is None:
        return True
    code, module = last.tb_frame.f_code, last.tb_frame.f_globals.get("__name__", "")
    # A function of C has no frame: it fails in ours, but not in a `raise`.
    raises = code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raises and module.partition(".")[0] == "bort_jax"


def write_trace(error: BaseException, out: str | None) -> Path | None:
    """Writes where an error came from to `OUT/error.txt`, or to a temporary file without OUT; None
    where nothing can be written."""
    try:
        inside = out and Path(out).is_dir()
        folder = Path(out) if out and inside else Path(tempfile.mkdtemp(prefix="bort-jax-"))
        file = folder / "error.txt"
        file.write_text(
            "".join(traceback.format_exception(error))[:LONGEST_TRACE], "utf-8", "replace"
        )
    except (OSError, ValueError, MemoryError, RecursionError):
        return None
    return file


def parse(verb: str, module, argv: list[str]):
    """The verb's configuration dataclass from YAML presets and options."""
    options = read_options(verb, module, argv)
    options.pop("huge_pages", None)
    return module.Config(**options)


def read_options(verb: str, module, argv: list[str]) -> dict:
    """The fields of the verb's configuration, and `huge_pages` of a verb that trains."""
    from jsonargparse import ArgumentParser

    check_files(argv)
    keep_texts()

    class Parser(ArgumentParser):
        def error(self, message, ex=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            fail(explain(str(message), known), code=2)

    parser = Parser(
        prog=f"bort-jax {verb}",
        description=f"{VERBS[verb]}.\n{module.__doc__ or ''}",
    )
    parser.add_argument("--config", action="config", help="YAML preset; later options override it")
    optional = {field.name for field in fields(module.Config) if field.default is not MISSING}
    several = {field.name for field in fields(module.Config) if field.type == tuple[str, ...]}
    for name, text in getattr(module, "POSITIONAL", {}).items():
        kept: dict = {"nargs": "?", "default": ""} if name in optional else {}
        kept |= {"nargs": "+"} if name in several else {}
        parser.add_argument(name, type=str, help=text, **kept)
    skip = set(getattr(module, "POSITIONAL", {}))
    parser.add_class_arguments(module.Config, skip=skip)
    if verb in TRAIN:
        parser.add_argument("--huge_pages", type=bool, default=False, help=HUGE_PAGES)
    known = [action.dest for action in parser._actions]
    settings = parser.parse_args(spell_out(argv, {*switches(module.Config), "--huge_pages"}))
    values = vars(parser.instantiate(settings))
    values.pop("config", None)
    return values | {name: tuple(values[name]) for name in several & {*values}}


def with_presets(verb: str, argv: list[str]) -> list[str]:
    """`--preset smoke` of `quickstart` stands for `--config configs/quickstart_smoke.yaml`."""
    if "--preset" not in argv:
        return argv
    at = argv.index("--preset")
    name = argv[at + 1] if at + 1 < len(argv) else ""
    found = {
        file.stem.removeprefix(f"{verb}_"): file
        for folder in CONFIGS
        for file in folder.glob(f"{verb}_*.yaml")
    }
    if name not in found:
        fail(f"no preset {name!r} of {verb}; there are: {', '.join(found) or 'none'}", code=2)
    return ["--config", str(found[name]), *argv[:at], *argv[at + 2 :]]


def spell_out(argv: list[str], switches: set[str]) -> list[str]:
    """`--vocab-size` is `--vocab_size`, and a bare `--json` is `--json true`.

    jsonargparse could take a bare one too, but as a value of it whatever word stands behind.
    """
    words = [SPELLINGS.get(word, word) for word in map(underscore, argv)]
    spelled = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        bare = word in switches and following.lower() not in ("true", "false")
        spelled += [word, "true"] if bare else [word]
    return spelled


def switches(config: type, prefix: str = "--") -> Iterator[str]:
    """The options of a dataclass, and of those in it, that are true or false."""
    for field in fields(config):
        if field.type is bool:
            yield prefix + field.name
        elif isinstance(field.type, type) and is_dataclass(field.type):
            yield from switches(field.type, f"{prefix}{field.name}.")


def underscore(word: str) -> str:
    name, equals, value = word.partition("=")
    is_option = name.startswith("--") and len(name) > 2
    return "--" + name[2:].replace("-", "_") + equals + value if is_option else word


def explain(message: str, known: list[str]) -> str:
    """A parser's complaint in one line: what was expected, and the nearest name of an unknown."""
    line = shorten(ValueError(message), longest=LONGEST)
    if wrong := WRONG_TYPE.match(line):
        key, kind, value = wrong.groups()
        option = "--" + key.replace("_", "-")
        return f"{option}: expected {KINDS.get(kind, kind).format(value)}, got {value}"
    unknown = re.search(
        r"(?:unrecognized arguments: --|(?:key|option) [\"'])([\w.]+)", line, re.IGNORECASE
    )
    return line + (suggestion(unknown[1], known) if unknown and unknown[1] not in known else "")


def keep_compilations() -> None:
    """Turns jax's persistent compilation cache on, where the user has not chosen one, or none."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def fail(message: str, *, code: int) -> NoReturn:
    with suppress(OSError):  # nobody may be listening
        print(f"bort-jax: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    return (
        "usage: bort-jax VERB [--config FILE.yaml] [--option value …]\n\n"
        f"{verbs}\n\n"
        "Every option of a verb can stand in a YAML file and be overridden on the command line;\n"
        "`bort-jax VERB --help` lists them. With BORT_JAX_TRACEBACK=1 an error shows where it\n"
        "came from. Begin with: bort-jax quickstart"
    )


if __name__ == "__main__":
    main()
