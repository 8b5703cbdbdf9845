# SPDX-License-Identifier: Apache-2.0
"""Run folders and caches: the commands that make them, and those that read them again."""

from typing import NamedTuple

SMALL = "--seq-len 16 --batch-size 2"
TUNE = (
    "--data {shared}/rows --model {shared}/model --labels [no,yes] --steps 2 --batch-sizes [2]"
    " --seq-len 16 --out {at}"
)
PRETRAIN = (
    "pretrain --data {shared}/texts.txt --tokenizer {shared}/model --arch D1-A2-H8-I8"
    f" --positions 16 {SMALL} --steps 2 --save-every 1 --eval-rows 4 --out {{at}}"
)
CORPUS = "data build {shared}/texts.txt {at}/corpus --tokenizer {shared}/model"
TEACHER = (
    f"data cache-teacher {{at}}/corpus {{at}}/cache --teacher {{shared}}/masked_lm {SMALL}"
    " --top-k 2 --steps 2"
)
FINETUNE = f"finetune {TUNE} --teacher {{shared}}/model --score-test false"
EXTRACT = (
    "extract --data {shared}/texts.txt --tokenizer {shared}/model --depth [1,2] --heads [2]"
    f" --hidden [8] --intermediate [8] --steps 1 {SMALL} --eval-rows 4 --out {{at}}"
)
LATENCY = f"{EXTRACT} --latency true --latency-points 2"
INSIDE = (
    "extract --parent {shared}/model --data {shared}/texts.txt --seq-len 16 --calibration-rows 128"
    " --about-params 700 --out {at}"
)
AGORA = (
    f"agora {TUNE} --pool {{shared}}/texts.txt --seeds [0,1] --learning-rates [0.001]"
    " --weight-decays [0.0] --warmup-ratios [0.1] --final-seeds [0] --calls 16 --ignore-checks true"
    " --allow-weak-socrates true --drop-leaks true --socrates "
)
CHECKPOINT, PAID = AGORA + "{shared}/model", AGORA + "python:fuzz_labels:answer"
PREDICT = "predict --model {shared}/model --data {shared}/rows/train.jsonl --seq-len 16 --out {at}"
EMBED = f"{PREDICT} --embed mean"
END = ("results.json",)


class Run(NamedTuple):
    """A run folder or a cache.

    Attributes:
      name: of the kind of input.
      made_by: commands that make it in the folder `{at}`.
      argv: the command that reads it, and computes little.
      files: patterns of what is mutated.
      less: what is taken away of it: without its end a run goes on.
      turns: how often it has its turn; slow ones seldom.
    """

    name: str
    made_by: tuple[str, ...]
    argv: str
    files: tuple[str, ...]
    less: tuple[str, ...] = ()
    turns: int = 4


RUNS = (
    Run(
        "pretrain-run",
        (PRETRAIN,),
        "read {at}",
        ("run.json", "checkpoints/2/**/*", "data/*.json"),
        ("checkpoints/1",),
    ),
    Run("pretrain-record", (PRETRAIN,), PRETRAIN, ("*.json", "data/*.json")),
    Run("teacher-cache", (CORPUS, TEACHER), "data check {at}/cache", ("cache/*",)),
    Run("finetune-run", (FINETUNE,), FINETUNE, ("*.json", "model/*", "teacher/*"), END),
    Run("finetune-record", (FINETUNE,), FINETUNE, ("*.json",)),
    Run("extract-run", (EXTRACT,), EXTRACT, ("run.json", "errors*", "inputs.json", "data/*.json")),
    Run("latency", (LATENCY,), LATENCY, ("latency.json",), turns=1),
    Run("extraction", (EXTRACT,), "extract --from {at} --max-params 1000", ("extraction.*",)),
    Run(
        "inside-a-parent",
        (INSIDE,),
        "extract --from {at} --about-params 700 --out {out}",
        ("*.json", "*.safetensors", "model/*"),
    ),
    Run("agora-run", (CHECKPOINT,), CHECKPOINT, ("*.json", "rounds/**/*", "pool/**/*"), END, 1),
    Run("agora-record", (CHECKPOINT,), CHECKPOINT, ("*.json",)),
    Run("paid-answers", (PAID,), PAID, ("*.jsonl", "*.json"), END, 1),
    Run("answers", (PREDICT,), PREDICT, ("*.json*",)),
    Run("embeddings", (EMBED,), EMBED, ("*",)),
)
