"""PyTorch modules as other engines run them: the peers of the towers."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    import torch

Runner = Callable[["torch.nn.Module", "tuple[torch.Tensor, ...]", int], common.Call]


def _eager(module: "torch.nn.Module", inputs: "tuple[torch.Tensor, ...]", _: int) -> common.Call:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return module(*inputs).numpy()

    return run


def _compiled(
    module: "torch.nn.Module", inputs: "tuple[torch.Tensor, ...]", threads: int
) -> common.Call:
    import torch

    return _eager(torch.compile(module), inputs, threads)


def _onnxruntime(
    module: "torch.nn.Module", inputs: "tuple[torch.Tensor, ...]", threads: int
) -> common.Call:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(module, inputs, path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {x.name: t.numpy() for x, t in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, given)[0]


def _openvino(precision: str) -> Runner:
    def start(
        module: "torch.nn.Module", inputs: "tuple[torch.Tensor, ...]", threads: int
    ) -> common.Call:
        import openvino
        import torch

        with torch.inference_mode():
            graph = openvino.convert_model(module, example_input=inputs)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        model = openvino.Core().compile_model(graph, "CPU", settings)
        given = [x.numpy() for x in inputs]
        return lambda: model(given)[0].copy()

    return start


ENGINES: dict[str, tuple[tuple[str, ...], Runner]] = {  # what each needs, and how it starts
    "PyTorch": ((), _eager),
    "torch.compile": ((), _compiled),
    "ONNX Runtime": (("onnx", "onnxruntime", "onnxscript"), _onnxruntime),
    "OpenVINO": (("openvino",), _openvino("f32")),
    "OpenVINO bf16": (("openvino",), _openvino("bf16")),
}
NEEDS = {name: ("torch", "transformers", *needs) for name, (needs, _) in ENGINES.items()}


def start(
    engine: str, module: "torch.nn.Module", inputs: "tuple[torch.Tensor, ...]", threads: int
) -> common.Call:
    """Return a function that runs a module on fixed inputs and returns its only output."""
    import torch

    torch.set_num_threads(threads)
    return ENGINES[engine][1](module.eval(), inputs, threads)
