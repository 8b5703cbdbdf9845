# SPDX-License-Identifier: Apache-2.0
"""The costs of BERT, part by part: A embeddings, B one layer, C head.

Counted from the released Bort (arXiv 2010.10499, and the companion code): learned
positions, no token types, a tied decoder, biases everywhere but in the embeddings.

`macs` are multiply-adds of matrix products for one sequence. `elementwise_ops` are element-wise
operations, *our reading* of what one element takes:

| function | operations |
|---|---|
| softmax, per score | 6: mask, maximum, subtract, exp, sum, divide |
| LayerNorm | 7: mean, subtract, square, variance, normalise, scale, shift |
| GELU (erf) | 5: scale, erf, add 1, halve, multiply |
| tanh, bias, residual, scaling of queries | 1 |

`live_activations` counts the numbers held at once if no operation is fused with another: in
attention x, q, k, v and the scores before and after the softmax; in the feed-forward x and its
intermediate before and after GELU; in the embeddings words and their sum with positions; in
the masked-LM head x and the logits before and after the bias.
"""

from functools import partial

from bort_jax.cost.network import Count, Network, Part, zero
from bort_jax.cost.polynomial import Polynomial

Head = str  # "none", "mlm" or "classifier"
SOFTMAX, LAYER_NORM, GELU = 6, 7, 5


def bert_network(
    *, vocab_size: int, positions: int, seq_len: int, head: Head = "none", labels: int = 2
) -> Network:
    """The counts of a BERT at rows <D, A, H, I>; n is the depth D.

    Args:
      vocab_size: V, tokens in the vocabulary.
      positions: learned positions.
      seq_len: S, the length at which everything but the parameters is counted.
      head: `none`, `mlm` (dense, GELU, LayerNorm, tied decoder with a bias; for all S
        positions) or `classifier` (dense, tanh, dense on the first token).
      labels: outputs of the classifier.

    Raises:
      ValueError: `seq_len` is longer than `positions`, a number is below 1 or absurd, or `head`
        is not known.
    """
    if seq_len > positions:
        raise ValueError(f"seq_len {seq_len} is longer than the {positions} positions")
    counts = {
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "positions": positions,
        "labels": labels,
    }
    if wrong := [f"{name} {n}" for name, n in counts.items() if not 1 <= n < 2**31]:
        raise ValueError(f"expected 1 or more, below 2^31; got {', '.join(wrong)}")
    of, s = Polynomial.of, seq_len
    heads = _heads(vocab_size, s, labels)
    if head not in heads:
        raise ValueError(f"head must be one of {', '.join(heads)}; got {head!r}")
    embeddings = Part(
        params=of(H=embedding_params(1, vocab_size=vocab_size, positions=positions)),
        macs=zero,
        elementwise_ops=of(H=s * (1 + LAYER_NORM)),
        live_activations=(of(H=2 * s),),
    )
    params, macs = (_of_uniform(count) for count in layer_counts(s))
    layer = Part(
        params=params,
        macs=macs,
        elementwise_ops=of(A=SOFTMAX * s * s, H=s * (1 + 5 + 2 + 2 * LAYER_NORM), I=s * (1 + GELU)),
        live_activations=(of(H=4 * s, A=2 * s * s), of(H=s, I=2 * s)),
    )
    return Network(
        a=embeddings,
        b=layer,
        c=heads[head],
        names=("depth", "heads", "hidden", "intermediate"),
        repeats=of(D=1),
        titles=("embeddings", "encoder", "head"),
    )


def layer_counts(seq_len: int) -> tuple[Polynomial, Polynomial]:
    """Parameters and multiply-adds of one layer, in H, I and W, the width of all heads together.

    Parameters: q, k, v and output projections, feed-forward, two LayerNorms. Multiply-adds: their
    products with S tokens, and the S·S attention scores and averages.
    """
    s, of = seq_len, partial(Polynomial.of, "HWI")
    return of(HW=4, W=3, HI=2, H=6, I=1), of(HW=4 * s, HI=2 * s, W=2 * s * s)


def _of_uniform(count: Polynomial) -> Count:
    """The same count at a row <D, A, H, I>, where the heads are as wide as H."""
    return lambda row: count((row[2], row[2], row[3]))


def embedding_params(hidden: int, *, vocab_size: int, positions: int) -> int:
    """Parameters of the embeddings: a row of H a token and a position, and one LayerNorm."""
    return (vocab_size + positions + 2) * hidden


def _heads(v: int, s: int, labels: int) -> dict[Head, Part]:
    of = Polynomial.of
    return {
        "none": Part(zero, zero),
        "mlm": Part(
            params=of(HH=1, H=3, one=v),
            macs=of(HH=s, H=s * v),
            elementwise_ops=of(H=s * (1 + GELU + LAYER_NORM), one=s * v),
            live_activations=(of(H=s, one=2 * s * v),),
        ),
        "classifier": Part(
            params=of(HH=1, H=1 + labels, one=labels),
            macs=of(HH=1, H=labels),
            elementwise_ops=of(H=2, one=labels),
        ),
    }
