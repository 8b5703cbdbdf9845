# SPDX-License-Identifier: Apache-2.0
"""The options of an extraction, and what is wrong with them before anything begins."""

import math
from dataclasses import dataclass, fields

from bort_jax.arch import SearchSpace
from bort_jax.cost.layerwise import layer_options
from bort_jax.ose import Budget
from bort_jax.ose.search import SEARCHES
from bort_jax.stages.extract.measure import check_measure

ERRORS = ("trained", "elastic", "fitted")
MEASURED = ("interval", "bounded")  # inside a parent they measure what they ask for jointly
LEAST_ROWS = 128  # texts, for Gram matrices and an error that mean something
INFERENCES = ("macs", "operations", "latency_ms")
LIMITS = {
    "max_params": "params",
    "max_macs": "macs",
    "max_latency_ms": "latency_ms",
    "max_memory": "memory",
    "max_error": "error",
}
# The options that each way to an answer reads; it refuses every other one, so that none that is
# added later can be ignored in silence.
READ_FROM_RUN = {"from_run", "out", "about_params", "pick", *LIMITS}
READ_LAYERWISE = {
    *("data", "out", "tokenizer", "vocab_size", "column", "search", "head_size"),
    *("depth", "heads", "hidden", "intermediate", "max_params", "max_macs", "max_error"),
    *("measure", "steps", "learning_rates", "batch_size", "seq_len", "eval_rows", "seed"),
}
READ_PARENT = {
    *("parent", "data", "out", "column", "search", "depth", "heads", "intermediate"),
    *(
        "seq_len",
        "calibration_rows",
        "seed",
        "about_params",
        "latency",
        "inference",
        "vocab",
        "stock",
        "epsilon",
    ),
    *LIMITS,
}
UNREAD_UNIFORM = {"from_run", "head_size", "calibration_rows", "pick", "vocab", "stock"}


@dataclass(frozen=True)
class Config:
    """An extraction. Lists are written [2,4,6].

    Attributes:
      data: file or folder of text, or a corpus that another stage prepared.
      out: run folder; with --from optional.
      from_run: `--from RUN`: answer from this finished extraction, without training.
      pick: with --from RUN inside a parent, the number of a network of the front.
      parent: folder of a pretrained checkpoint: extract inside it, with its weights. The sizes
        that are searched are then shares of the parent's, where none are given.
      depth: choices of D, the number of layers; a layerwise search may skip any layer of the
        largest.
      heads: choices of A; a tuple is valid where A divides H.
      hidden: choices of H.
      intermediate: choices of I.
      search: over uniform networks: interval (the published scheme, where nothing is given),
        bounded (assumes less, trains what may be best) or exhaustive. Or layerwise, which it is
        inside a parent: every layer has its own heads and intermediate size, or is skipped;
        errors of layers are taken to add up, as exhaustive takes them to inside a parent.
      epsilon: ε in (0, 1): the winner's W is at least (1 − ε) of the best, see report.html.
      errors: trained (each candidate by itself), elastic (one masked network serves all) or fitted
        (a polynomial through a sample that is trained, which predicts the rest).
      fit_points: architectures that are trained for fitted errors.
      measure: what e is: error (masked tokens that are wrong), perplexity, distillation (nats
        from a teacher) or excess (perplexity over a unigram model's).
      teacher: checkpoint of a masked LM with the same tokenizer, for --measure distillation.
      head_size: width of a head in a layerwise search.
      steps: training steps s of each candidate, or of the elastic network in a layerwise search.
      learning_rates: Θ: every candidate is trained with each, the best is kept.
      clip_weights: largest weight allowed in training (the compact condition); none: no limit.
      batch_size: rows in a training step.
      seq_len: tokens in a row; costs are counted at this length too.
      eval_rows: held-out rows that the error is measured on.
      calibration_rows: texts that a parent's heads and units are measured on.
      inference: what i is: macs (multiply-adds), operations (softmax, LayerNorm and GELU too)
        or latency_ms (fitted to this device).
      latency: fit latency even where no option needs it; inside a parent --from RUN can then
        limit it.
      latency_points: architectures that are timed for the fit.
      inference_batch: rows of a forward pass, for latency and memory.
      max_params: ceiling on p.
      max_macs: ceiling on multiply-adds.
      max_latency_ms: ceiling on latency on this device.
      max_memory: ceiling on bytes of weights and activations.
      max_error: ceiling on e.
      about_params: parameters within a tenth of this number.
      tokenizer: folder with a tokenizer.json; none: train one on the text.
      vocab_size: of a tokenizer that is trained.
      vocab: inside a parent, how many tokens of its vocabulary stay, the most frequent of the
        text; none: all.
      stock: inside a parent, search only what stock transformers can hold: fewer layers, all with
        the same intermediate size.
      column: text column of parquet, JSON lines and CSV.
      seed: of weights, order and masks.
    """

    data: str | None = None
    out: str | None = None
    from_run: str | None = None
    pick: int | None = None
    parent: str | None = None
    depth: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    heads: tuple[int, ...] = (4, 8, 12, 16)
    hidden: tuple[int, ...] = (512, 768, 1024)
    intermediate: tuple[int, ...] = (256, 512, 768, 1024, 3072)
    search: str | None = None
    epsilon: float = 0.25
    errors: str = "trained"
    fit_points: int = 24
    measure: str = "error"
    teacher: str | None = None
    head_size: int = 64
    steps: int = 100
    learning_rates: tuple[float, ...] = (1e-3,)
    clip_weights: float | None = None
    batch_size: int = 16
    seq_len: int = 128
    eval_rows: int = 256
    calibration_rows: int = 512
    inference: str = "macs"
    latency: bool = False
    latency_points: int = 24
    inference_batch: int = 1
    max_params: float | None = None
    max_macs: float | None = None
    max_latency_ms: float | None = None
    max_memory: float | None = None
    max_error: float | None = None
    about_params: float | None = None
    tokenizer: str | None = None
    vocab_size: int = 8192
    vocab: int | None = None
    stock: bool = False
    column: str = "text"
    seed: int = 0

    @property
    def search_kind(self) -> str:
        """The search that is given, or what it is otherwise."""
        return self.search or ("layerwise" if self.parent else "interval")


def check(config: Config) -> None:
    """Raises ValueError before any text is read."""
    check_read(config)
    if config.from_run:
        return
    if not (config.data and config.out):
        raise ValueError("--data and --out are needed, or --from RUN to ask a finished run again")
    from bort_jax.engine.optimizer import check_numbers  # takes a second; --from RUN is quicker

    check_numbers(config)
    if config.parent:
        return check_parent(config)
    if config.steps < 1:
        raise ValueError(f"steps must be at least 1; got {config.steps}")
    space = space_of(config, vocab_size=config.vocab_size)
    space.archs()
    if not 0 < config.epsilon < 1:
        raise ValueError(f"epsilon must lie in (0, 1); got {config.epsilon}")
    if not config.learning_rates:
        raise ValueError("learning_rates is empty: each candidate needs at least one")
    check_measure(config.measure, has_teacher=config.teacher is not None)
    if config.search_kind == "layerwise":
        check_layerwise(config, space)


def check_read(config: Config) -> None:
    """Raises ValueError for an unknown choice, and for options that would be ignored."""
    for name, choices in (
        ("search", (*SEARCHES, "layerwise")),
        ("errors", ERRORS),
        ("inference", INFERENCES),
    ):
        got = getattr(config, name)
        if got is not None and got not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {got!r}")
    given = {f.name for f in fields(Config) if getattr(config, f.name) != f.default}
    if config.from_run:
        what, unread = "--from RUN, which trains nothing,", given - READ_FROM_RUN
    elif config.parent:
        what, unread = "extraction inside a parent", given - READ_PARENT
    elif config.search_kind == "layerwise":
        what, unread = "a layerwise search", given - READ_LAYERWISE
    else:
        what, unread = f"search {config.search_kind}", given & UNREAD_UNIFORM
    if unread:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unread))
        raise ValueError(f"{what} does not read {names}: leave it out")


def check_parent(config: Config) -> None:
    """Raises ValueError for a search that is not one inside a parent, and for too few rows."""
    if config.search_kind not in MEASURED and config.epsilon != Config.epsilon:
        raise ValueError("inside a parent --epsilon is read by --search interval and bounded")
    if not 0 < config.epsilon < 1:
        raise ValueError(f"epsilon must lie in (0, 1); got {config.epsilon}")
    if config.stock and given_sizes(config, "heads"):
        raise ValueError("--stock keeps every head of a layer: leave --heads out")
    if config.inference == "operations":
        raise ValueError("inside a parent i is macs or latency_ms: operations are not counted")
    if config.calibration_rows < LEAST_ROWS:
        raise ValueError(
            f"--calibration-rows must be at least {LEAST_ROWS}, a quarter of them held out; got "
            f"{config.calibration_rows}"
        )


def given_sizes(config: Config, name: str) -> tuple[int, ...]:
    """The choices of a size that were given; none where the parent's shares are to be taken."""
    got = tuple(getattr(config, name))
    return () if got == getattr(Config, name) else got


def check_layerwise(config: Config, space: SearchSpace) -> None:
    """Raises ValueError for more than one rate, and for a head size that no layer can have."""
    if len(config.learning_rates) > 1:
        raise ValueError(
            "a layerwise search trains one network: give --learning-rates one rate, not "
            f"{len(config.learning_rates)}"
        )
    for hidden in config.hidden:
        layer_options(space, hidden=hidden, head_size=config.head_size)


def space_of(config: Config, *, vocab_size: int) -> SearchSpace:
    return SearchSpace(
        depth=tuple(config.depth),
        heads=tuple(config.heads),
        hidden=tuple(config.hidden),
        intermediate=tuple(config.intermediate),
        vocab_size=vocab_size,
        positions=config.seq_len,
    )


def budget_of(config: Config) -> Budget:
    """The limits that were given, together."""
    ceilings = {
        column: float(getattr(config, limit))
        for limit, column in LIMITS.items()
        if getattr(config, limit) is not None
    }
    about = Budget.about(params=config.about_params) if config.about_params else Budget()
    return Budget(ceilings) & about


def ceilings_of(config: Config) -> tuple[float, float, float]:
    """The ceilings on p, i and e that a layerwise search keeps."""
    ceilings = budget_of(config).ceilings
    params, macs, error = (ceilings.get(name, math.inf) for name in ("params", "macs", "error"))
    return params, macs, error
