# SPDX-License-Identifier: Apache-2.0
"""Two CPU devices, caches of the tests' own and an offline hub, before anything imports jax."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Programs are small and run for milliseconds: compiling them is what costs. They are compiled
# cheaply, and kept for child processes and for the next session.
XLA_FLAGS = (
    "--xla_force_host_platform_device_count=2",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
if version("jax").startswith("0.10."):  # there the older emitters compile in half the time
    XLA_FLAGS += ("--xla_cpu_use_fusion_emitters=false",)
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "home"
os.environ |= {
    "XLA_FLAGS": " ".join(XLA_FLAGS),
    "XDG_CACHE_HOME": str(CACHE),
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    # Stock classes take seconds to import; tests that compare say so.
    "BORT_JAX_UNCOMPARED": "1",
    # No array gets an axis by accident: what is broadcast has as many.
    "JAX_NUMPY_RANK_PROMOTION": "raise",
}

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Only modules that annotate arrays: to wrap every function takes seconds, and calls are slower.
PACKAGE = Path(__file__).parent.parent / "bort_jax"
ANNOTATED = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if "jaxtyping" in file.read_text()
]
install_import_hook(ANNOTATED, "array_types.check_arrays")

settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=100)


# Tracing makes many objects and few cycles: looking for cycles took a tenth of the time.
gc.set_threshold(100_000, 20, 50)


def pytest_configure(config):
    """More examples of each law where the slow tests run as well."""
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "thorough")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """1,000 lines of text made of a few words: learnable in a few steps."""
    from helpers import SENTENCES

    generator = np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    lines = [" ".join(generator.choice(words, 20)) for _ in range(1000)]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="session")
def corpus(text_file, tmp_path_factory):
    from bort_jax.data.prepared import prepare_corpus

    return prepare_corpus(text_file, tmp_path_factory.mktemp("corpus"), vocab_size=300)


@pytest.fixture(scope="session")
def tiny(corpus):
    """A masked-LM checkpoint with random weights and the corpus's tokenizer."""
    from bort_jax.arch import Arch
    from bort_jax.interop import Checkpoint
    from bort_jax.model import BertConfig, random_params

    config = BertConfig(Arch(2, 2, 16, 24), corpus.tokenizer.vocab_size, positions=32)
    empty = Checkpoint(config, None, tokenizer=corpus.tokenizer)
    return Checkpoint(config, random_params(empty.model, seed=0), tokenizer=corpus.tokenizer)


@pytest.fixture(scope="session")
def small(tiny):
    """As `tiny`, with one layer: half as much to compile."""
    from dataclasses import replace

    from bort_jax.arch import Arch
    from bort_jax.model import random_params

    one_layer = replace(tiny, config=replace(tiny.config, arch=Arch(1, 2, 16, 24)))
    return replace(one_layer, params=random_params(one_layer.model, seed=0))


@pytest.fixture(scope="session")
def tiny_run(corpus, tmp_path_factory):
    """The folder of a finished pretraining that nothing disturbed; read it, and change nothing."""
    from helpers import TINY_RUN, options_of, pretrain_config

    from bort_jax import cli

    out = tmp_path_factory.mktemp("tiny") / "run"
    cli.main(["pretrain", *options_of(pretrain_config(corpus, out, **TINY_RUN))])
    return out
