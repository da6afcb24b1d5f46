"""The same network on other people's engines, for comparison in the same run.

All run on one thread, batch as given, from float32 embeddings to float32 logits, their weights those of
a float expert. What is not installed is left out, and said.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qmoe_core.engine import ExpertWeights
from qmoe_core.measure.latency import Contestant

if TYPE_CHECKING:
    from torch import nn

TORCH_FP32 = "torch fp32"
PEER_OF_WIDTH = {
    "q8": "ONNX Runtime int8",
    "ptq8": "ONNX Runtime int8",
    "q4": "ONNX Runtime MatMulNBits 4",
    "q2": "ONNX Runtime MatMulNBits 2",
    "bitnet": "ONNX Runtime MatMulNBits 2",
}
"""The best peer of the same width, for each expert that has one."""

log = logging.getLogger(__name__)


def torch_network(weights: ExpertWeights) -> nn.Sequential:
    """A float expert as plain torch modules."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    with torch.no_grad():
        for layer in weights.layers:
            assert layer.weight is not None, "peers run the float expert"
            linear, norm = nn.Linear(layer.inputs, layer.outputs), nn.LayerNorm(layer.outputs)
            linear.weight.copy_(torch.from_numpy(layer.weight))
            linear.bias.copy_(torch.from_numpy(layer.bias))
            norm.weight.copy_(torch.from_numpy(layer.gamma))
            norm.bias.copy_(torch.from_numpy(layer.beta))
            layers += [linear, norm, nn.ReLU()]
        head = nn.Linear(weights.layers[-1].outputs, weights.classes)
        head.weight.copy_(torch.from_numpy(weights.head_weight))
        head.bias.copy_(torch.from_numpy(weights.head_bias))
    return nn.Sequential(*layers, head).eval()


def onnx_model(weights: ExpertWeights, batch: int | None = None) -> Any:
    """A float expert as an ONNX graph: MatMul, Add, LayerNormalization, Relu."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, current = [], [], "embedding"

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    matrices = [(layer.matrix, layer.bias) for layer in weights.layers] + [
        (weights.head_weight, weights.head_bias)
    ]
    for i, (matrix, bias) in enumerate(matrices):
        last = i == len(weights.layers)
        product = node(
            "MatMul", [current, constant(f"weight{i}", matrix.T.astype(np.float32))], f"product{i}"
        )
        current = node("Add", [product, constant(f"bias{i}", bias)], "logits" if last else f"sum{i}")
        if not last:
            layer = weights.layers[i]
            names = [current, constant(f"gamma{i}", layer.gamma), constant(f"beta{i}", layer.beta)]
            current = node("LayerNormalization", names, f"norm{i}", axis=-1, epsilon=1e-5)
            current = node("Relu", [current], f"relu{i}")
    graph = helper.make_graph(
        nodes,
        "expert",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch or "batch", weights.dim])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch or "batch", weights.classes])],
        constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    return model


def contestants(weights: ExpertWeights, x: np.ndarray) -> list[Contestant]:
    """Every peer that is installed, on one thread.

    Args:
        weights: a float expert; x: float32 [B, D].
    """
    found = torch_only(weights, x)
    try:
        with quantizers_silent():
            found += _onnx_runtime(weights, x)
    except ImportError:
        log.warning("ONNX Runtime is not installed; its rows are left out (pip install 'qmoe-lab[bench]')")
    return found + openvino(lambda: onnx_model(weights, len(x)), x, "embedding")


@contextmanager
def quantizers_silent() -> Iterator[None]:
    """ONNX Runtime's quantizers narrate every node on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def torch_only(weights: ExpertWeights, x: np.ndarray) -> list[Contestant]:
    """The yardstick alone: torch fp32, eager."""
    import torch

    torch.set_num_threads(1)
    network, given = torch_network(weights), torch.from_numpy(x)

    @torch.inference_mode()
    def call() -> object:
        return network(given)

    return [Contestant(TORCH_FP32, "peer", call, f"torch {torch.__version__}, eager, inference mode")]


def session(model: Any, x: np.ndarray, name: str = "embedding") -> Callable[[], object]:
    """A call of an ONNX model whose input `name` is x: both ends bound, no copies, no dictionaries."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    running = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = running.io_binding()
    binding.bind_cpu_input(name, x)
    output = running.get_outputs()[0]
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32, "cpu")
    binding.bind_ortvalue_output(output.name, value)
    return lambda: running.run_with_iobinding(binding)


def openvino(make: Callable[[], Any], x: np.ndarray, name: str) -> list[Contestant]:
    """OpenVINO in float on one thread, where it is installed; its input `name` of an ONNX model is x."""
    try:
        from importlib.metadata import version

        import openvino

        model = make()
    except ImportError:
        log.warning("OpenVINO is not installed; its rows are left out (pip install openvino)")
        return []
    # Else it takes bfloat16 where the processor has it, and as many threads as there are cores.
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    running = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    request = running.create_infer_request()
    request.set_tensor(name, openvino.Tensor(x, shared_memory=True))
    call = partial(request.infer, share_outputs=True)
    return [Contestant("OpenVINO fp32", "peer", call, f"OpenVINO {version('openvino')}, float32")]


def _onnx_runtime(weights: ExpertWeights, x: np.ndarray) -> list[Contestant]:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    version = f"ONNX Runtime {onnxruntime.__version__}"
    model = onnx_model(weights, len(x))
    found = [Contestant("ONNX Runtime fp32", "peer", session(model, x), version)]
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, plain)
        # Without reduce_range its 8-bit products saturate: a relative error of 0.2 instead of 0.01.
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        call = session(onnx.load(small), x)
    found.append(
        Contestant("ONNX Runtime int8", "peer", call, f"{version}, dynamic, per channel, reduce_range")
    )
    for bits in (8, 4, 2):
        config = DefaultWeightOnlyQuantConfig(block_size=128, is_symmetric=True, accuracy_level=4, bits=bits)
        quantizer = MatMulNBitsQuantizer(onnx_model(weights, len(x)), algo_config=config)
        quantizer.process()
        call = session(getattr(quantizer.model, "model", quantizer.model), x)
        name = f"ONNX Runtime MatMulNBits {bits}"
        found.append(Contestant(name, "peer", call, f"{version}, blocks of 128, accuracy level 4"))
    return found
