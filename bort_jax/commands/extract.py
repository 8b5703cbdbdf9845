# SPDX-License-Identifier: Apache-2.0
"""Trains one architecture per interval on your text, and keeps the one with the largest W."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bort_jax.arch import SearchSpace
from bort_jax.cost import bert_network, cost
from bort_jax.data.prepared import prepare_corpus
from bort_jax.ose import Extraction, check_abnc, extract
from bort_jax.ose.interval import planned_trainings
from bort_jax.report import page, plots
from bort_jax.report.terminal import say, show_box, show_table
from bort_jax.train.run_folder import claim, write_json
from bort_jax.train.trained_error import remembered, trained_error


@dataclass(frozen=True)
class Config:
    """An extraction. Lists are written [2,4,6].

    Attributes:
      data: file or folder of text, or a corpus that another stage prepared.
      out: run folder.
      depth: choices of D, the number of layers.
      heads: choices of A; a tuple is valid where A divides H.
      hidden: choices of H.
      intermediate: choices of I.
      epsilon: ε in (0, 1): the winner's W is at least (1 − ε) of the best, see report.html.
      steps: training steps s of each candidate.
      learning_rates: Θ: every candidate is trained with each, the best is kept.
      batch_size: rows in a step.
      seq_len: tokens in a row; multiply-adds are counted at this length too.
      eval_rows: held-out rows that the error is measured on.
      tokenizer: folder with a tokenizer.json; none: train one on the text.
      vocab_size: of a tokenizer that is trained.
      column: text column of parquet, JSON lines and CSV.
      seed: of weights, order and masks.
    """

    data: str
    out: str
    depth: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    heads: tuple[int, ...] = (4, 8, 12, 16)
    hidden: tuple[int, ...] = (512, 768, 1024)
    intermediate: tuple[int, ...] = (256, 512, 768, 1024, 3072)
    epsilon: float = 0.25
    steps: int = 100
    learning_rates: tuple[float, ...] = (1e-3,)
    batch_size: int = 16
    seq_len: int = 128
    eval_rows: int = 256
    tokenizer: str | None = None
    vocab_size: int = 8192
    column: str = "text"
    seed: int = 0


def run(config: Config) -> Extraction:
    check(config)
    out = claim(config.out, config)
    corpus = prepare_corpus(
        config.data,
        out / "data",
        column=config.column,
        tokenizer=config.tokenizer,
        vocab_size=config.vocab_size,
    )
    space = space_of(config, vocab_size=corpus.tokenizer.vocab_size)
    cost_fn = cost(space, seq_len=config.seq_len)
    measured = trained_error(
        corpus,
        steps=config.steps,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        learning_rates=config.learning_rates,
        eval_rows=config.eval_rows,
        seed=config.seed,
    )
    planned = planned_trainings(space, cost_fn=cost_fn, epsilon=config.epsilon)
    say(f"{len(space.archs())} architectures, {len(planned)} to train")
    error_fn = announced(remembered(measured, out / "errors.jsonl"), total=len(planned))
    extraction = extract(space, cost_fn=cost_fn, error_fn=error_fn, epsilon=config.epsilon)
    write(extraction, out, config)
    show(extraction, out)
    return extraction


def check(config: Config) -> None:
    """Raises ValueError before any text is read."""
    space_of(config, vocab_size=config.vocab_size).archs()
    if not 0 < config.epsilon < 1:
        raise ValueError(f"epsilon must lie in (0, 1); got {config.epsilon}")
    if not config.learning_rates:
        raise ValueError("learning_rates is empty: each candidate needs at least one")


def space_of(config: Config, *, vocab_size: int) -> SearchSpace:
    return SearchSpace(
        depth=tuple(config.depth),
        heads=tuple(config.heads),
        hidden=tuple(config.hidden),
        intermediate=tuple(config.intermediate),
        vocab_size=vocab_size,
        positions=config.seq_len,
    )


def announced(error_fn, *, total: int):
    """Says each result as it comes, with how many are left."""
    done = []

    def lookup(arch):
        error = error_fn(arch)
        done.append(arch)
        say(f"  [{len(done)}/{total}] e({arch}) = {error:.4f}")
        return error

    return lookup


def ranked(extraction: Extraction) -> list[tuple]:
    """(architecture, p, i, e, W, break-even error ratio, on front) of the trained, best first."""
    order = sorted(extraction.trained, key=lambda index: -extraction.w[index])
    return [
        (
            str(extraction.archs[k]),
            int(extraction.params[k]),
            int(extraction.steps[k]),
            float(extraction.errors[k]),
            float(extraction.w[k]),
            float(extraction.errors[extraction.best] / extraction.errors[k]),
            float(extraction.break_even[k]),
            "yes" if extraction.front[k] else "",
        )
        for k in order
    ]


HEADER = ("architecture", "p", "i", "e", "W", "e ratio", "break-even", "front")
READING = (
    "“e ratio” is the winner's error over this one's; the winner is ahead while it stays below "
    "“break-even”."
)


def certificate_lines(extraction: Extraction) -> list[str]:
    certificate = extraction.certificate
    lines = [
        f"trained {len(extraction.trained)} of {len(extraction.archs)} architectures, one per "
        f"interval of ε = {certificate.epsilon}",
        f"bound: W is at least {certificate.ratio:.3f} of the largest W in the space, if "
        f"{certificate.assumption}",
        f"measured: {certificate.violations} of {certificate.pairs} pairs break that, by a factor "
        f"of {certificate.rho:.3f} at the most, and the bound allows for it",
    ]
    spread = extraction.errors[extraction.trained]
    savings = extraction.w[extraction.trained] * spread
    if len(spread) > 1:
        lines.append(
            f"spread (largest/smallest) among the trained: e {spread.max() / spread.min():.3f}, "
            f"savings of p and i {savings.max() / savings.min():.3f}"
        )
    if len(spread) > 1 and extraction.trained[savings.argmax()] == extraction.best:
        lines.append(
            "NOTE: with equal errors the winner would be the same: p and i decided; more --steps, "
            "or a space whose members differ more in error, would let e speak"
        )
    return lines


def write(extraction: Extraction, out: Path, config: Config) -> None:
    """`extraction.parquet` with all of Ξ, `extraction.json` with the answer, `report.html`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "arch": [str(arch) for arch in extraction.archs],
        **{
            name: getattr(extraction, name)
            for name in ("params", "steps", "intervals", "errors", "w", "front", "break_even")
        },
    }
    pq.write_table(pa.table(table), out / "extraction.parquet")
    network = bert_network(
        vocab_size=1, positions=config.seq_len, seq_len=config.seq_len, head="none"
    )
    k = extraction.best
    answer = {
        "best": str(extraction.best_arch),
        "params": int(extraction.params[k]),
        "steps": int(extraction.steps[k]),
        "error": float(extraction.errors[k]),
        "w": float(extraction.w[k]),
        "maximum_point": str(extraction.maximum_point),
        "maximum_params": int(extraction.params.max()),
        "maximum_steps": int(extraction.steps.max()),
        "trained": len(extraction.trained),
        "architectures": len(extraction.archs),
        "certificate": asdict(extraction.certificate),
        "abnc": str(check_abnc(network)).splitlines(),
    }
    write_json(out / "extraction.json", _without_nan(answer))
    drawn = plots.front(extraction)
    drawn.savefig(out / "front.png", dpi=120, bbox_inches="tight")
    page.write_page(out / "report.html", "Extraction", blocks(extraction, drawn))


def blocks(extraction: Extraction, drawn) -> list[str]:
    """The extraction's part of a report page."""
    return [
        page.paragraph(f"Largest W: {extraction.best_arch}."),
        page.figure(drawn, "Ticks at the foot: every architecture of the space."),
        page.table(HEADER, ranked(extraction)),
        page.paragraph(READING),
        *map(page.paragraph, certificate_lines(extraction)),
    ]


def show(extraction: Extraction, out: Path) -> None:
    show_table("trained architectures, largest W first", HEADER, ranked(extraction))
    say(READING)
    show_box(
        "extraction",
        [
            f"best: {extraction.best_arch}   T: {extraction.maximum_point}",
            *certificate_lines(extraction),
            f"{out}/report.html, {out}/extraction.parquet",
            f"next: bort-jax pretrain --arch {extraction.best_arch} --data DATA --out OUT",
        ],
    )


def _without_nan(answer: dict) -> dict:
    return json.loads(json.dumps(answer).replace("NaN", "null"))
