# SPDX-License-Identifier: Apache-2.0
"""The results of the whole pipeline: a record, a box in the terminal, one page."""

from pathlib import Path

from bort_jax.ose import Extraction
from bort_jax.report import page
from bort_jax.report.terminal import millions, show_box
from bort_jax.stages.agora import page as agora_page
from bort_jax.stages.extract import page as extraction_page
from bort_jax.stages.pretrain.page import loss_blocks


def summary(extraction: Extraction, compared: dict) -> dict:
    """The extraction's and Agora's part of the results.

    Args:
      compared: what `stages.agora.run` returns.
    """
    best, largest = extraction.best, extraction.params.argmax()
    described = lambda k, arch: {
        "arch": str(arch),
        "params": int(extraction.params[k]),
        "macs": int(extraction.inference_cost[k]),
    }
    return {
        "extracted": {
            **described(best, extraction.best_arch),
            "error": float(extraction.errors[best]),
            "w": float(extraction.w[best]),
            "bound": extraction.certificate.ratio,
        },
        "maximum_point": described(largest, extraction.maximum_point),
        "socrates_report_dev": compared["socrates_report_dev"],
        "test": {name: compared[name]["test"] for name in agora_page.SIDES},
        "report_dev": {name: compared[name]["report"] for name in agora_page.SIDES},
        "verdict": agora_page.verdict(compared),
    }


def write(out: Path, extraction: Extraction, compared: dict, results: dict) -> None:
    blocks = [
        page.table(("", ""), box_rows(out, results)),
        page.heading("Extraction"),
        *extraction_page.blocks(extraction),
        page.heading("Pretraining"),
        *loss_blocks({"teacher, T": out / "teacher", "student": out / "student"}),
        page.heading("Agora"),
        *agora_page.blocks(compared),
        page.heading("Seconds"),
        page.table(("stage", "seconds"), results["seconds"].items()),
    ]
    page.write_page(out / "report.html", "bort-jax quickstart", blocks)


def show(out: Path, results: dict) -> None:
    rows = box_rows(out, results)
    width = max(len(name) for name, _ in rows)
    show_box("results", [f"{name:<{width}}  {text}" for name, text in rows])


def box_rows(out: Path, results: dict) -> list[tuple[str, str]]:
    found, largest = results["extracted"], results["maximum_point"]
    ratio = lambda kind: found[kind] / largest[kind]
    loss = lambda name: results["pretraining"][name]["loss"]
    return [
        ("architecture", f"{found['arch']}   (T: {largest['arch']})"),
        ("parameters p", f"{millions(found['params'])}, {ratio('params'):.1%} of T's"),
        ("multiply-adds i", f"{millions(found['macs'])}, {ratio('macs'):.1%} of T's"),
        ("error e, W", f"{found['error']:.4f}, {found['w']:.4f}"),
        (
            "bound on W",
            f"≥ {found['bound']:.3f} of the best in the space, if costlier ones err no more",
        ),
        ("held-out loss", f"student {loss('student'):.3f}, T {loss('teacher'):.3f}"),
        ("Socrates", f"{100 * results['socrates_report_dev']:.1f} % on report-dev"),
        ("test, plain", agora_page.spread(results["test"]["plain"])),
        ("test, Agora", agora_page.spread(results["test"]["agora"])),
        ("so", results["verdict"]),
        ("export", "; ".join(f"{name}: {line}" for name, line in results["export"].items())),
        ("time", f"{sum(results['seconds'].values()):.0f} s"),
        ("everything", f"{out}/report.html, {out}/results.json, {out}/export"),
        (
            "next",
            f"bort-jax evaluate --model {out}/export/classifier "
            f"--data {out}/reviews/scarce/test.parquet",
        ),
    ]
