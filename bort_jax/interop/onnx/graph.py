# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph that grows: nodes, inputs, constants and the layers that models are made of."""

from typing import Any

import numpy as np
from flax import traverse_util

from bort_jax.interop.checkpoint import Checkpoint

OPSET = 20  # the first with Gelu; LayerNormalization came in 17
IR_VERSION = 9  # what belongs to that operator set


class Graph:
    """Nodes, inputs and constants of a checkpoint's graph, in the order in which they are added.

    Every method returns the name of what it adds.
    """

    def __init__(self, checkpoint: Checkpoint):
        flat = traverse_util.flatten_dict(checkpoint.params, sep=".")
        self.params = {name: np.asarray(array, np.float32) for name, array in flat.items()}
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.nodes, self.inputs, self.weights = [], [], {}

    def input(self, name: str, dims: tuple[str, ...]) -> str:
        from onnx import TensorProto, helper

        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, dims))
        return name

    def add(self, kind: str, *operands: str, name: str = "", **attributes) -> str:
        """A node with one output."""
        from onnx import helper

        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, operands, [name], name=f"/{name}", **attributes))
        return name

    def constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self.weights[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def param(self, name: str) -> str:
        return self.constant(name, self.params[name])

    def ints(self, *numbers: int) -> str:
        return self.constant("ints " + " ".join(map(str, numbers)), np.array(numbers, np.int64))

    def floats(self, number: float) -> str:
        return self.constant(f"float {number:g}", np.float32(number))

    def dense(self, x: str, name: str, *, scale: float = 1) -> str:
        """scale · (x · kernel + bias), of rows; heads in a kernel are flattened."""
        bias = np.float32(scale) * self.params[f"{name}.bias"].reshape(-1)
        kernel = np.float32(scale) * self.params[f"{name}.kernel"].reshape(-1, bias.size)
        constants = self.constant(f"{name}.kernel", kernel), self.constant(f"{name}.bias", bias)
        return self.add("Gemm", x, *constants)

    def norm(self, x: str, name: str, *, eps: float) -> str:
        scale, bias = self.param(f"{name}.scale"), self.param(f"{name}.bias")
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)

    def model(self, outputs: list[Any]) -> Any:
        """The `onnx.ModelProto`."""
        from onnx import helper

        return helper.make_model(
            helper.make_graph(
                self.nodes, "bort_jax", self.inputs, outputs, list(self.weights.values())
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="bort-jax",
        )
