# SPDX-License-Identifier: Apache-2.0
"""The cost polynomials of BERT, part by part: A embeddings, B one layer, C head.

Counted from the released Bort (arXiv 2010.10499, and the companion code): learned
positions, no token types, a tied decoder, biases everywhere but in the embeddings.
`steps` are multiply-adds of matrix products for one sequence; element-wise work (softmax,
LayerNorm, GELU) and look-ups are not counted.
"""

from typing import NamedTuple

from bort_jax.cost.polynomial import Polynomial

Head = str  # "none", "mlm" or "classifier"


class Part(NamedTuple):
    """One part of an A·Bⁿ·C network."""

    params: Polynomial
    steps: Polynomial


class Network(NamedTuple):
    """An A·Bⁿ·C network; n is the depth D, and `layer` is the cost of one B."""

    embeddings: Part
    layer: Part
    head: Part

    @property
    def encoder(self) -> Part:
        """Bⁿ: the layer's polynomials times D."""
        return Part(*(_times_depth(polynomial) for polynomial in self.layer))

    @property
    def parts(self) -> dict[str, Part]:
        return {"embeddings": self.embeddings, "encoder": self.encoder, "head": self.head}


def bert_network(
    *, vocab_size: int, positions: int, seq_len: int, head: Head = "none", labels: int = 2
) -> Network:
    """The polynomials of a BERT.

    Args:
      vocab_size: V, tokens in the vocabulary.
      positions: learned positions.
      seq_len: S, the length at which steps are counted.
      head: `none`, `mlm` (dense, GELU, LayerNorm, tied decoder with a bias; steps for
        all S positions) or `classifier` (dense, tanh, dense on the first token).
      labels: outputs of the classifier.

    Raises:
      ValueError: `seq_len` is longer than `positions`, or `head` is not known.
    """
    if seq_len > positions:
        raise ValueError(f"seq_len {seq_len} is longer than the {positions} positions")
    v, s = vocab_size, seq_len
    heads = {
        "none": Part(Polynomial(), Polynomial()),
        "mlm": Part(Polynomial.of(HH=1, H=3, one=v), Polynomial.of(HH=s, H=s * v)),
        "classifier": Part(
            Polynomial.of(HH=1, H=1 + labels, one=labels), Polynomial.of(HH=1, H=labels)
        ),
    }
    if head not in heads:
        raise ValueError(f"head must be one of {', '.join(heads)}; got {head!r}")
    return Network(
        embeddings=Part(Polynomial.of(H=v + positions + 2), Polynomial()),
        # q, k, v and output projections, feed-forward, two LayerNorms; then their products
        # with S tokens, and the S·S attention scores and averages.
        layer=Part(
            Polynomial.of(HH=4, HI=2, H=9, I=1),
            Polynomial.of(HH=4 * s, HI=2 * s, H=2 * s * s),
        ),
        head=heads[head],
    )


def _times_depth(polynomial: Polynomial) -> Polynomial:
    return Polynomial(
        tuple(
            t._replace(exponents=(t.exponents[0] + 1, *t.exponents[1:])) for t in polynomial.terms
        )
    )
