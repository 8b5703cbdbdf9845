# SPDX-License-Identifier: Apache-2.0
"""What the outputs of a `Classifier` answer, and what training them minimises.

One module serves the three heads: c outputs a row are classes; one output is a number
(regression), or says how right the row is among the rows of its question (choice).
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from bort_jax.model.bert import Classifier
from bort_jax.model.losses import Sums, classification, regression, soft_classification
from bort_jax.model.params import forward

HEADS = ("classification", "regression", "choice")
# Names of the one output of the heads that have just one.
SINGLE = {"regression": ("score",), "choice": ("choice",)}


def output_names(head: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """A name for each output of a head.

    Raises:
      ValueError: `head` is not one of HEADS.
    """
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
    return SINGLE.get(head, labels)


def row_outputs(
    model: Classifier, params, ids: Int[Array, "*rows s"], *, pad: int, key=None
) -> Float[Array, "*rows k"]:
    """The outputs of every row of tokens; rows may stand in groups, as `[b, c, s]` for choices."""
    flat = ids.reshape(-1, ids.shape[-1])
    outputs = forward(model, params, flat, flat != pad, key=key)
    return outputs.reshape(*ids.shape[:-1], -1)


def head_loss(model: Classifier, head: str, *, pad: int) -> Callable:
    """Builds `(params, batch, key) -> sums`: cross-entropy over classes or over the rows of a
    question, or squared error.

    The batch holds `ids: int[b, s]` (choices: `[b, c, s]`), `labels` and `weights`, both `[b]`, and
    where labels are soft `targets: float[b, c]`.
    """
    output_names(head, ())

    def loss_fn(params, batch: dict[str, jax.Array], key) -> Sums:
        outputs = row_outputs(model, params, batch["ids"], pad=pad, key=key)
        if head == "regression":
            return regression(outputs[..., 0], batch["labels"], batch["weights"])
        logits = outputs[..., 0] if head == "choice" else outputs
        if "targets" in batch:
            return soft_classification(logits, batch["targets"], batch["weights"])
        return classification(logits, batch["labels"], batch["weights"])

    return loss_fn
