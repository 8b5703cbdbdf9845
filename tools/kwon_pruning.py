# SPDX-License-Identifier: Apache-2.0
"""Retraining-free pruning of heads and units, to compare with: our reading of Kwon et al. 2022,
"A Fast Post-Training Pruning Framework for Transformers" (arXiv 2204.09656).

Masks on heads and on feed-forward units, in three steps, all from labelled rows:

1. search: the squared gradients of the loss by the masks say what each is worth; of all pairs
   (heads, units) that the budget allows, the one that gives up least is taken;
2. rearrangement: in each layer, kept and pruned masks are exchanged while the layer's block of the
   Fisher information says that this gives up less;
3. tuning: layer after layer, the masks that stay are rescaled by least squares to the sums of the
   whole network.

Deviations: a layer keeps at least one head and one unit, and least squares are held towards 1 by a
ridge where the paper damps LSMR.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bort_jax.arch import LayerwiseArch
from bort_jax.interop import Checkpoint
from bort_jax.model import forward
from bort_jax.model.inherit import Inheritance
from bort_jax.model.inherit.layer import cut, permute, projection
from bort_jax.model.inherit.refit import Projection
from bort_jax.model.inherit.sequential import sequential_layers
from bort_jax.stages.extract.parent.choices import Costs
from bort_jax.tasks import Points

RIDGE, AT_ONCE, PASSES = 1e-2, 16, 2
Grads = dict[str, Float[np.ndarray, "n l m"]]


def mask_gradients(parent: Checkpoint, points: Points) -> Grads:
    """Of each row's loss by the masks of `heads` and `units`, layer by layer."""
    arch = parent.config.arch
    masks = {
        "heads": jnp.ones((arch.depth, arch.sizes()[0][0])),
        "units": jnp.ones((arch.depth, arch.sizes()[0][1])),
    }

    def loss(masks, ids, label):
        encoder = dict(parent.params["encoder"])
        for n in range(arch.depth):
            encoder[f"layer_{n}"] = _masked(encoder[f"layer_{n}"], masks, n)
        params = {**parent.params, "encoder": encoder}
        logits = forward(parent.model, params, ids[None], ids[None] != 0)
        return -jax.nn.log_softmax(logits)[0, label]

    run = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))
    starts = range(0, len(points.y) - AT_ONCE + 1, AT_ONCE)
    found = [
        jax.tree.map(np.asarray, run(masks, points.x[s : s + AT_ONCE], points.y[s : s + AT_ONCE]))
        for s in starts
    ]
    return {name: np.concatenate([one[name] for one in found]) for name in masks}


def _masked(layer, masks, n: int):
    attention, forward = layer["attention"], layer["feed_forward"]
    out, down = attention["out"], forward["down"]
    out = out | {"kernel": out["kernel"] * masks["heads"][n][:, None, None]}
    down = down | {"kernel": down["kernel"] * masks["units"][n][:, None]}
    return {
        **layer,
        "attention": attention | {"out": out},
        "feed_forward": forward | {"down": down},
    }


def searched(grads: Grads, costs: Costs, macs: float) -> dict[str, np.ndarray]:
    """Which heads and units stay, `bool[l, m]`, where the layers may need so many macs."""
    worth = {name: np.square(values).sum(0) for name, values in grads.items()}
    for values in worth.values():  # the best of each layer stays
        values[np.arange(len(values)), values.argmax(1)] = np.inf
    depth, one = costs.arch.depth, costs.layer((1, 1))[1]
    head, unit = (costs.layer(sizes)[1] - one for sizes in ((2, 1), (1, 2)))
    rest = depth * (one - head - unit)
    heads, units = (np.sort(worth[name].ravel())[::-1] for name in ("heads", "units"))
    lost = {}
    for a in range(depth, heads.size + 1):
        i = min(int((macs - rest - a * head) // unit), units.size)
        if i >= depth:
            lost[a, i] = heads[a:].sum() + units[i:].sum()
    a, i = min(lost, key=lost.__getitem__)
    return {"heads": worth["heads"] >= heads[a - 1], "units": worth["units"] >= units[i - 1]}


def rearranged(grads: Float[np.ndarray, "n m"], kept: np.ndarray) -> np.ndarray:
    """The masks of one layer after exchanges that give up less by its Fisher information."""
    fisher, gone = grads.T @ grads, ~kept
    for _ in range(PASSES):
        for back in np.flatnonzero(gone):
            slope = fisher @ gone
            change = 2 * (slope - fisher[back]) + np.diag(fisher)
            change = np.where(gone, np.inf, change - 2 * slope[back] + fisher[back, back])
            if change.min() < 0:
                gone[[back, change.argmin()]] = [False, True]
    return ~gone


def rescaled(side: Projection, cross: Float[np.ndarray, "f h"]) -> Float[np.ndarray, "f h"]:
    """The projection with one factor for each head or unit, by least squares."""
    weights, gram = side.weights[1:].astype(float), side.gram[1:, 1:]
    n, k = len(weights) // side.grain, side.grain
    matrix = (gram * (weights @ weights.T)).reshape(n, k, n, k).sum((1, 3))
    wanted = cross[1:] - side.gram[1:, :1] * side.weights[:1]
    right = (wanted * weights).sum(1).reshape(n, k).sum(1)
    ridge = RIDGE * np.trace(matrix) / n
    factors = np.linalg.solve(matrix + ridge * np.eye(n), right + ridge)
    scaled = weights * np.repeat(factors, k)[:, None]
    return np.vstack([side.weights[:1], scaled]).astype(np.float32)


def order_of(kept: np.ndarray) -> Int[np.ndarray, " m"]:
    return np.argsort(~kept, kind="stable")


def kwon_pruned(
    found: Inheritance[Checkpoint], grads: Grads, costs: Costs, *, macs: float
) -> tuple[LayerwiseArch, Checkpoint]:
    """The parent pruned to layers of so many macs, and its sizes."""
    own = found.network.config.arch
    kept = searched(grads, costs, macs)
    layers, sizes = [], []
    for n, part in enumerate(found.parts):
        stays = {name: rearranged(grads[name][:, n], kept[name][n]) for name in kept}
        whole = permute(part.whole, *map(order_of, stays.values()))
        a, i = (int(stays[name].sum()) for name in ("heads", "units"))
        rows = projection(whole, "heads")[: 1 + a * own.head_size], projection(whole, "units")
        layers.append((n, cut(whole, rows[0], rows[1][: 1 + i])))
        sizes.append((a, i))
    arch = LayerwiseArch(own.hidden, own.head_size, tuple(sizes))
    tuned = sequential_layers(found, arch, start=layers, fit_fn=rescaled)
    return arch, found.with_layers(arch, tuned)
