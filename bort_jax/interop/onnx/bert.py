# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's forward pass as an ONNX graph of standard operators, batch and length free.

The rows of all sequences are one axis, so that a dense layer is one `Gemm` with its bias inside;
the query's constants hold 1/√head size. Source: our reading of
what `model/bert.py` computes; inputs and outputs are named as `optimum` exports them.
"""

from typing import Any, NamedTuple

import numpy as np

from bort_jax.interop.checkpoint import Checkpoint
from bort_jax.interop.onnx.graph import Graph

LOWEST = float(np.finfo(np.float32).min)


class States(NamedTuple):
    """The encoder's result by name: `rows[b·s, h]`, `shape` = (b, s), `mask[b, s]` as floats."""

    rows: str
    shape: str
    mask: str


def build_model(checkpoint: Checkpoint) -> Any:
    """An `onnx.ModelProto`: int64 inputs `[b, s]` (choice: `[b, c, s]`), float32 outputs.

    Masked LM: `logits[b, s, v]`; classifier and choice: `logits[b, c]`; encoder:
    `last_hidden_state[b, s, h]`, and `sentence_embedding[b, h]`, the mean over tokens.
    """
    heads = {"masked_lm": masked_lm, "classifier": classifier, "choice": choice, "none": no_head}
    graph = Graph(checkpoint)
    inputs = read_inputs(graph)
    return graph.model(heads[checkpoint.head](graph, encoder(graph, inputs)))


def input_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Token types are an input where the model has a table of them, or its tokenizer gives
    them: stock sessions refuse inputs too many as well as too few."""
    tokenizer = checkpoint.tokenizer
    typed = checkpoint.config.token_types > 0 or (tokenizer and tokenizer.separators == 1)
    return ("input_ids", "attention_mask", *["token_type_ids"] * bool(typed))


def read_inputs(graph: Graph) -> dict[str, str]:
    """The inputs as `[b, s]`; a question's choices are rows."""
    choice = graph.checkpoint.head == "choice"
    dims = ("batch", "num_choices", "sequence") if choice else ("batch", "sequence")
    names = [graph.input(name, dims) for name in input_names(graph.checkpoint)]
    if not choice:
        return {name: name for name in names}
    length = graph.add("Shape", names[0], start=2, end=3)
    rows = graph.add("Concat", graph.ints(-1), length, axis=0)
    return {name: graph.add("Reshape", name, rows) for name in names}


def encoder(graph: Graph, inputs: dict[str, str]) -> States:
    shape = graph.add("Shape", inputs["input_ids"])
    mask = graph.add("Cast", inputs["attention_mask"], to=1)  # to float
    x = graph.add("Reshape", embeddings(graph, inputs), graph.ints(-1, graph.config.arch.hidden))
    # (1 − mask) · lowest: what a key that is padding adds to a score.
    hidden = graph.add("Mul", graph.add("Sub", graph.floats(1), mask), graph.floats(LOWEST))
    floor = graph.add("Unsqueeze", hidden, graph.ints(1, 2))
    size = graph.config.arch.head_size
    heads = graph.add("Concat", shape, graph.ints(-1, size), axis=0)
    for n, _ in enumerate(graph.config.arch.sizes()):
        x = layer(graph, x, f"encoder.layer_{n}", heads=heads, floor=floor)
    return States(x, shape, mask)


def embeddings(graph: Graph, inputs: dict[str, str]) -> str:
    part, ids = "encoder.embeddings", inputs["input_ids"]
    x = graph.add("Gather", graph.param(f"{part}.word.embedding"), ids)
    x = graph.add("Add", x, places(graph, ids))
    if graph.config.token_types:
        types = graph.param(f"{part}.token_type.embedding")
        x = graph.add("Add", x, graph.add("Gather", types, inputs["token_type_ids"]))
    return graph.norm(x, f"{part}.norm", eps=graph.config.layer_norm_eps)


def places(graph: Graph, ids: str) -> str:
    """Embeddings of positions, as `Embeddings.places` has them."""
    table, padding = graph.param("encoder.embeddings.position.embedding"), graph.config.padding
    if padding is None:
        length = graph.add("Shape", ids, start=1, end=2)
        return graph.add("Slice", table, graph.ints(0), length, graph.ints(0))
    is_padding = graph.add("Equal", ids, graph.ints(padding))
    counted = graph.add("Cast", graph.add("Not", is_padding), to=7)  # to int64
    numbers = graph.add("CumSum", counted, graph.constant("sequence", 1))
    # Padding before all else has the number −1, which is the last row: its embedding is 0 anyway.
    rows = graph.add("Gather", table, graph.add("Sub", numbers, graph.ints(1)))
    weights = graph.add("Unsqueeze", graph.add("Cast", counted, to=1), graph.ints(2))
    return graph.add("Mul", rows, weights)


def layer(graph: Graph, x: str, name: str, *, heads: str, floor: str) -> str:
    eps = graph.config.layer_norm_eps
    branch = attention(graph, x, f"{name}.attention", heads=heads, floor=floor)
    x = graph.norm(graph.add("Add", x, branch), f"{name}.attention_norm", eps=eps)
    up = graph.add("Gelu", graph.dense(x, f"{name}.feed_forward.up"))
    branch = graph.dense(up, f"{name}.feed_forward.down")
    return graph.norm(graph.add("Add", x, branch), f"{name}.feed_forward_norm", eps=eps)


def attention(graph: Graph, x: str, name: str, *, heads: str, floor: str) -> str:
    def projected(part: str, order: tuple[int, ...], scale: float = 1) -> str:
        rows = graph.dense(x, f"{name}.{part}", scale=scale)
        return graph.add("Transpose", graph.add("Reshape", rows, heads), perm=order)

    q = projected("query", (0, 2, 1, 3), graph.config.arch.head_size**-0.5)
    k, v = projected("key", (0, 2, 3, 1)), projected("value", (0, 2, 1, 3))
    scores = graph.add("Add", graph.add("MatMul", q, k), floor)
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    rows = graph.params[f"{name}.out.kernel"].shape[:2]
    mixed = graph.add("Transpose", mixed, perm=(0, 2, 1, 3))
    mixed = graph.add("Reshape", mixed, graph.ints(-1, rows[0] * rows[1]))
    return graph.dense(mixed, f"{name}.out")


def masked_lm(graph: Graph, states: States) -> list[Any]:
    """Logits at every position; the decoder is the embedding table, which is stored once."""
    config = graph.config
    eps = config.layer_norm_eps if config.head_norm_eps is None else config.head_norm_eps
    x = graph.add("Gelu", graph.dense(states.rows, "head.transform"))
    x = graph.norm(x, "head.norm", eps=eps)
    table = graph.param("encoder.embeddings.word.embedding")
    logits = graph.add("Gemm", x, table, graph.param("head.bias"), transB=1)
    shape = graph.add("Concat", states.shape, graph.ints(config.vocab_size), axis=0)
    graph.add("Reshape", logits, shape, name="logits")
    return [floats("logits", "batch", "sequence", config.vocab_size)]


def classifier(graph: Graph, states: States) -> list[Any]:
    first_token_logits(graph, states, name="logits")
    return [floats("logits", "batch", len(graph.checkpoint.labels))]


def choice(graph: Graph, states: States) -> list[Any]:
    """A question's choices side by side."""
    logits = first_token_logits(graph, states)
    asked = graph.add("Shape", graph.inputs[0].name, start=0, end=2)
    graph.add("Reshape", logits, asked, name="logits")
    return [floats("logits", "batch", "num_choices")]


def first_token_logits(graph: Graph, states: States, *, name: str = "") -> str:
    first = graph.add("Gather", sequences(graph, states), graph.constant("first", 0), axis=1)
    pooled = graph.add("Tanh", graph.dense(first, "pooler"))
    kernel, bias = graph.param("output.kernel"), graph.param("output.bias")
    return graph.add("Gemm", pooled, kernel, bias, name=name)


def no_head(graph: Graph, states: States) -> list[Any]:
    hidden = graph.config.arch.hidden
    sequences(graph, states, name="last_hidden_state")
    weights = graph.add("Unsqueeze", states.mask, graph.ints(2))
    weighted = graph.add("Mul", "last_hidden_state", weights)
    total = graph.add("ReduceSum", weighted, graph.ints(1), keepdims=0)
    tokens = graph.add("ReduceSum", states.mask, graph.ints(1), keepdims=1)
    graph.add("Div", total, tokens, name="sentence_embedding")
    return [
        floats("last_hidden_state", "batch", "sequence", hidden),
        floats("sentence_embedding", "batch", hidden),
    ]


def sequences(graph: Graph, states: States, *, name: str = "") -> str:
    """The rows as `[b, s, h]`."""
    hidden = graph.ints(graph.config.arch.hidden)
    shape = graph.add("Concat", states.shape, hidden, axis=0)
    return graph.add("Reshape", states.rows, shape, name=name)


def floats(name: str, *dims: str | int) -> Any:
    """A float32 output."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
