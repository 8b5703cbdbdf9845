# SPDX-License-Identifier: Apache-2.0
"""Pretraining: masked LM, alone or with distillation from a teacher on the same batch."""

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from bort_jax.arch import Arch
from bort_jax.data.masking import MaskedStream
from bort_jax.data.packing import Packing, check_packing
from bort_jax.data.prepared import Corpus, prepare_corpus
from bort_jax.interop import Checkpoint, load, save
from bort_jax.model import BertConfig, MaskedLM, init_params
from bort_jax.train.checkpoint import Checkpoints
from bort_jax.train.loop import Hook, Reporter, fit
from bort_jax.train.objectives import step_function
from bort_jax.train.optimizer import Hyper
from bort_jax.train.parallel import State, is_leader, leader_first, new_state
from bort_jax.train.predict import MlmScores, mlm_scores
from bort_jax.train.run_folder import claim, write_json
from bort_jax.train.signals import Interrupted, StopRequest, stop_signals


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining of one architecture. Defaults are the published setting (bort companion
    script) where it is known, except for the size of the run.

    Attributes:
      data: file or folder of text, hub:NAME, or a corpus that `bort-jax data build` or another
        stage built.
      out: run folder; the model is written to `OUT/model`.
      arch: such as D4-A8-H1024-I768, or bort, bert-base, bert-large.
      init_from: checkpoint folder of the same architecture to start from; where it has no masked-LM
        head, its encoder starts under a fresh one.
      teacher: checkpoint folder of a masked LM with the same tokenizer; none: plain masked LM.
      tokenizer: folder with a tokenizer.json; none: train one on the text (or take the teacher's,
        or that of `init_from`).
      vocab_size: of a tokenizer that is trained.
      column: text column of parquet, JSON lines and CSV.
      steps: gradient steps.
      batch_size: rows over all devices of all hosts.
      seq_len: tokens in a row.
      packing: joined: rows are full, and documents follow each other with a separator between;
        documents: no row crosses a document. The held-out scores are of joined rows in both.
      buckets: with documents, short rows come in batches of short rows, with as many tokens.
      whole_word: predict whole words (our reading; the published script predicts tokens).
      positions: learned positions.
      learning_rate: peak.
      warmup_ratio: share of the steps with a rising rate.
      weight_decay: decoupled; not on biases and LayerNorm.
      optimizer: adamw or lamb.
      clip: largest norm of the gradient.
      dropout: everywhere BERT has it.
      dtype: of activations: float32 or bfloat16.
      mlm_weight: of the masked-LM loss beside distillation.
      distill_weight: of T²·KL(teacher ‖ student).
      temperature: T.
      seed: of initial weights, order, masks and dropout.
      save_every: steps between checkpoints.
      log_every: steps between log lines.
      eval_rows: held-out rows that the final scores are measured on.
    """

    data: str
    out: str
    arch: str = "bort"
    init_from: str | None = None
    teacher: str | None = None
    tokenizer: str | None = None
    vocab_size: int = 8192
    column: str = "text"
    steps: int = 1000
    batch_size: int = 32
    seq_len: int = 128
    packing: Packing = "joined"
    buckets: bool = False
    whole_word: bool = False
    positions: int = 512
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.01
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    clip: float = 1.0
    dropout: float = 0.1
    dtype: str = "float32"
    mlm_weight: float = 0.1
    distill_weight: float = 0.5
    temperature: float = 2.0
    seed: int = 0
    save_every: int = 500
    log_every: int = 10
    eval_rows: int = 512


def pretrain(config: PretrainConfig) -> MlmScores:
    """Runs, or resumes, a pretraining; writes `OUT/model` and `OUT/scores.json`.

    Raises:
      RunMismatch: OUT holds a run of another configuration.
      ValueError: rows longer than the positions, a teacher of another vocabulary, an unknown
        optimizer or dtype, a batch that the devices cannot share.
      Interrupted: a signal came; the state was saved, and the same call resumes.
    """
    check(config)
    out = Path(config.out)
    leader_first(lambda: claim(out, config))
    if (out / "scores.json").is_file():  # written last: there is nothing left to do
        return MlmScores(**json.loads((out / "scores.json").read_text()))
    teacher = load(config.teacher) if config.teacher else None
    start = starting_point(config)
    corpus = leader_first(lambda: corpus_of(config))
    model = MaskedLM(model_config(config, corpus, start=start))
    params = initial_params(model, start, seed=config.seed)
    state = train_masked_lm(model, corpus, config, params=params, teacher=teacher)
    params = jax.device_get(state.params)
    scores = mlm_scores(model, corpus.heldout, rows=config.eval_rows, seq_len=config.seq_len)(
        params
    )
    if is_leader():
        facts = card_facts(config, scores)
        done = Checkpoint(
            model.config, params, family=start.family if start else "bert", facts=facts
        )
        done = done.with_tokenizer(corpus.tokenizer, source=str(out))
        save(done, out / "model")
        write_json(out / "scores.json", scores._asdict())
    return scores


def card_facts(config: PretrainConfig, scores: MlmScores) -> dict[str, str]:
    """What the model card says of a run."""
    teacher = {"teacher": Path(config.teacher).name} if config.teacher else {}
    start = {"started from": Path(config.init_from).name} if config.init_from else {}
    rows = f"{config.batch_size} rows of {config.seq_len} tokens"
    return {
        "data": Path(config.data).name,
        "pretrained": f"{config.steps:,} steps of {rows}",
        **start,
        **teacher,
        "held-out loss": f"{scores.loss:.3f} nats a masked token",
        "held-out error": f"{100 * scores.error:.1f} % of the masked tokens",
    }


def corpus_of(config: PretrainConfig) -> Corpus:
    """The prepared corpus; a student reads its text with its teacher's tokenizer."""
    return prepare_corpus(
        config.data,
        Path(config.out) / "data",
        column=config.column,
        tokenizer=config.tokenizer or config.teacher or config.init_from,
        vocab_size=config.vocab_size,
    )


def check(config: PretrainConfig) -> None:
    """Raises ValueError on what would only fail later, inside a trace."""
    Arch.parse(config.arch)
    check_packing(config.packing, buckets=config.buckets)
    if config.seq_len > config.positions:
        raise ValueError(
            f"seq_len {config.seq_len} is longer than the {config.positions} positions"
        )
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16; got {config.dtype!r}")
    if config.batch_size % jax.device_count():
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of {jax.device_count()} devices"
        )


def model_config(
    config: PretrainConfig, corpus: Corpus, *, start: Checkpoint | None = None
) -> BertConfig:
    """The model's shapes; what the options do not say is as in `start`.

    Raises:
      ValueError: `start` was trained on another vocabulary.
    """
    given = BertConfig(
        arch=Arch.parse(config.arch),
        vocab_size=corpus.tokenizer.vocab_size,
        positions=config.positions,
        dropout=config.dropout,
        dtype=config.dtype,
    )
    if start is None:
        return given
    if start.config.vocab_size != given.vocab_size:
        raise ValueError(
            f"{config.init_from} has {start.config.vocab_size} tokens, the corpus "
            f"{given.vocab_size}: a model goes on only with its own vocabulary"
        )
    # Rows of running text are no pairs: all token types are 0.
    return replace(start.config, dropout=config.dropout, dtype=config.dtype, separator=None)


def starting_point(config: PretrainConfig) -> Checkpoint | None:
    """The checkpoint of `init_from`.

    Raises:
      ValueError: it is a classifier, or of another architecture or number of positions.
    """
    if config.init_from is None:
        return None
    start = load(config.init_from)
    if start.labels:
        raise ValueError(
            f"{config.init_from} is a classifier; start from an encoder or a masked LM"
        )
    found, asked = start.config, (Arch.parse(config.arch), config.positions)
    if (found.arch, found.positions) != asked:
        raise ValueError(
            f"{config.init_from} is {found.arch} with {found.positions} positions; asked for "
            f"{asked[0]} with {asked[1]}"
        )
    return start


def initial_params(model: MaskedLM, start: Checkpoint | None, *, seed: int):
    """Fresh parameters; those that `start` has are taken from it."""
    fresh = init_params(model, seed=seed)
    return fresh | start.params if start else fresh


def train_masked_lm(
    model: MaskedLM, corpus: Corpus, config: PretrainConfig, *, params, teacher: Checkpoint | None
) -> State:
    """The loop of `pretrain`, from the newest checkpoint in `OUT/checkpoints` or from `params`."""
    out = Path(config.out)
    state = new_state(
        params,
        hyper(config),
        optimizer=config.optimizer,
        clip=config.clip,
    )
    checkpoints = Checkpoints(out / "checkpoints", identity=identity(config, corpus))
    restored = checkpoints.restore(state)
    state = restored.state if restored else state
    start = int(state.step)
    with stop_signals() as stop, closing(checkpoints), ExitStack() as stack:
        hooks: list[Hook] = [Saver(checkpoints, config, stop)]
        if is_leader():
            hooks.insert(0, stack.enter_context(closing(reporter(config, start=start))))
        return fit(
            state,
            batches(corpus, config, start=start),
            step_fn=step_function(model, config, teacher),
            hooks=hooks,
        )


def identity(config: PretrainConfig, corpus: Corpus) -> dict[str, Any]:
    """What a checkpoint must have in common with a run that continues it."""
    return {
        "architecture": str(Arch.parse(config.arch)),
        "tokenizer": corpus.tokenizer.sha256,
        "data manifest": corpus.sha256,
        "seed": config.seed,
        "rows of a batch": config.batch_size,
        "tokens of a row": config.seq_len,
    }


def reporter(config: PretrainConfig, *, start: int) -> Reporter:
    return Reporter(
        Path(config.out),
        start=start,
        total=config.steps,
        every=config.log_every,
        tokens=config.batch_size * config.seq_len,
        title=f"pretrain {config.arch}",
    )


def hyper(config: PretrainConfig) -> Hyper:
    return Hyper.of(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_ratio=config.warmup_ratio,
        total_steps=config.steps,
    )


def batches(corpus: Corpus, config: PretrainConfig, *, start: int):
    """This host's part of the batches from `start` to the end of the run."""
    stream = MaskedStream(
        corpus.train,
        seed=config.seed,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        packing=config.packing,
        buckets=config.buckets,
        word_starts=corpus.tokenizer.word_starts() if config.whole_word else None,
    )
    for index in range(start, config.steps):
        yield stream.batch(index, host=jax.process_index(), hosts=jax.process_count())


class Saver:
    """Saves every `save_every` steps, at the last, and before giving way to a signal."""

    def __init__(self, checkpoints: Checkpoints, config: PretrainConfig, stop: StopRequest):
        self.checkpoints, self.stop = checkpoints, stop
        self.every, self.total = config.save_every, config.steps

    def __call__(self, step: int, state: State, metrics: dict) -> None:
        signum = self.stop.poll()
        if step % self.every == 0 or step == self.total or signum:
            self.checkpoints.save(step, state)
        self.checkpoints.check()
        if signum:
            self.checkpoints.wait()
            raise Interrupted(step, signum)
