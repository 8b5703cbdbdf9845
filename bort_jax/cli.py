# SPDX-License-Identifier: Apache-2.0
"""`bort-jax VERB --config configs/x.yaml --dotted.override value`."""

import os
import re
import sys
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

from bort_jax.huge_pages import restart_with_huge_pages
from bort_jax.suggest import suggestion

VERBS = {
    "quickstart": "the whole pipeline on real movie reviews, in minutes, on a laptop",
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
    "convert": "write a checkpoint as a folder that stock transformers loads",
    "doctor": "say what this machine has and whether training would work on it",
}
TRAIN = {"quickstart", "extract", "pretrain", "finetune", "agora"}  # page faults are felt in these
SPELLINGS = {"--from": "--from_run"}  # `from` is a word of Python's
CONFIGS = [Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs"]


def main(argv: list[str] | None = None) -> None:
    if argv is None and TRAIN & set(sys.argv[1:2]):
        restart_with_huge_pages()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
    elif argv[0] in ("-V", "--version"):
        from importlib.metadata import version

        print("bort-jax", version("bort-jax"))
    elif argv[0] not in VERBS:
        fail(f"no verb {argv[0]!r}{suggestion(argv[0], VERBS)}; verbs: {', '.join(VERBS)}", code=2)
    else:
        run_verb(argv[0], with_presets(argv[0], argv[1:]))


def run_verb(verb: str, argv: list[str]) -> None:
    """Parses the verb's configuration and runs it; errors of the user are one line."""
    from bort_jax.engine.signals import Interrupted  # light: no device is touched

    module = import_module(f"bort_jax.commands.{verb}")
    config = parse(verb, module, argv)
    keep_compilations()
    try:
        module.run(config)
    except Interrupted as stop:
        fail(str(stop), code=stop.exit_code)
    except KeyboardInterrupt:
        fail("interrupted; what was finished is kept, and the same command resumes", code=130)
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("BORT_JAX_TRACEBACK"):
            raise
        fail(" ".join(str(error).split()), code=1)


def parse(verb: str, module, argv: list[str]):
    """The verb's configuration dataclass from YAML presets and options."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message, ex=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            fail(explain(str(message), known), code=2)

    parser = Parser(
        prog=f"bort-jax {verb}",
        description=f"{VERBS[verb]}.\n{module.__doc__ or ''}",
    )
    parser.add_argument("--config", action="config", help="YAML preset; later options override it")
    optional = {field.name for field in fields(module.Config) if field.default is not MISSING}
    for name, text in getattr(module, "POSITIONAL", {}).items():
        kept: dict = {"nargs": "?", "default": ""} if name in optional else {}
        parser.add_argument(name, type=str, help=text, **kept)
    skip = set(getattr(module, "POSITIONAL", {}))
    parser.add_class_arguments(module.Config, skip=skip)
    known = [action.dest for action in parser._actions]
    settings = parser.parse_args(spelled_out(argv, module.Config))
    values = vars(parser.instantiate(settings))
    values.pop("config", None)
    return module.Config(**values)


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


def spelled_out(argv: list[str], config: type) -> list[str]:
    """`--vocab-size` is `--vocab_size`, and a bare `--json` is `--json true`."""
    switches = {f"--{field.name}" for field in fields(config) if field.type is bool}
    words = [SPELLINGS.get(word, word) for word in map(underscored, argv)]
    spelled = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        bare = word in switches and following not in ("true", "false")
        spelled += [word, "true"] if bare else [word]
    return spelled


def underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    is_option = name.startswith("--") and len(name) > 2
    return "--" + name[2:].replace("-", "_") + equals + value if is_option else word


def explain(message: str, known: list[str]) -> str:
    """A parser's complaint in one line, with the nearest valid names of unknown options."""
    line = " ".join(message.split())
    unknown = re.search(
        r"(?:unrecognized arguments: --|(?:key|option) [\"'])([\w.]+)", line, re.IGNORECASE
    )
    return line + (suggestion(unknown[1], known) if unknown else "")


def keep_compilations() -> None:
    """Turns jax's persistent compilation cache on, where the user has not chosen one."""
    import jax

    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache) / "bort_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def fail(message: str, *, code: int) -> None:
    print(f"bort-jax: {message}", file=sys.stderr)
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
