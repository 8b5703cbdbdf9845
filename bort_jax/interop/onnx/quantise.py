# SPDX-License-Identifier: Apache-2.0
"""int8 weights by ONNX Runtime's own dynamic quantisation, a scale for each output channel."""

import logging
from pathlib import Path

from bort_jax.interop.onnx.folder import INT8, LARGEST, MODEL, require


def quantise(folder: Path) -> Path:
    """Writes `onnx/model_quantized.onnx` beside the float32 model of a folder.

    Products with constant weights and the embedding tables are stored in int8; activations are
    quantised as they come. Weights have 7 bits: with 8 the sums of processors without VNNI
    saturate.

    Raises:
      ImportError: ONNX Runtime, or what it quantises with, is not installed.
      ValueError: this ONNX Runtime cannot quantise the model.
    """
    require("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = folder / MODEL, folder / INT8
    logging.disable(logging.WARNING)  # it asks for a step that our graphs do not need
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=size_of(source) > LARGEST,
        )
    except Exception as error:
        target.unlink(missing_ok=True)
        raise ValueError(f"this ONNX Runtime cannot quantise {source.name}: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
    return target


def size_of(file: Path) -> int:
    """Bytes of a model, with its constants beside it."""
    return sum(part.stat().st_size for part in file.parent.glob(file.name + "*"))
