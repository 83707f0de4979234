"""What tests/bench_block.py compares with: the same block in other runtimes, one round at a time.

    python -P tests/peer_block.py FOLDER THREADS    # run by bench_block.py in the Python of --peer

FOLDER holds `inputs.npz` and `weights.safetensors` (diffusers' names). For every runtime that is
installed, `NAME.npy` with its result is written there, and the first line of stdout lists them with
their versions (stderr says why one is missing). Then each line of stdin is a runtime's name, and
each line of stdout the seconds of one run and of its threads. This file knows nothing of sdlc.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HEADS, GROUPS = 8, 32


def load_block(folder: Path):
    """diffusers' own modules with the weights of the file, and the inputs."""
    import torch
    from diffusers import Transformer2DModel
    from diffusers.models.resnet import ResnetBlock2D
    from safetensors.torch import load_file

    x, emb, context = (torch.from_numpy(np.load(folder / "inputs.npz")[n]) for n in ARGUMENTS)
    width = x.shape[1]

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            resnet = ResnetBlock2D(
                in_channels=width, out_channels=width, temb_channels=emb.shape[1], groups=GROUPS,
                eps=1e-5,
            )  # fmt: skip
            transformer = Transformer2DModel(
                num_attention_heads=HEADS, attention_head_dim=width // HEADS, in_channels=width,
                norm_num_groups=GROUPS, cross_attention_dim=context.shape[2],
            )  # fmt: skip
            self.resnets = torch.nn.ModuleList([resnet])
            self.attentions = torch.nn.ModuleList([transformer])

        def forward(self, x, emb, context):
            y = self.resnets[0](x, emb)
            return self.attentions[0](y, encoder_hidden_states=context, return_dict=False)[0]

    block = Block().eval()
    block.load_state_dict(load_file(folder / "weights.safetensors"))
    return block, (x, emb, context)


ARGUMENTS = ("x", "emb", "context")
Run = Callable[[], np.ndarray]


def pytorch(folder: Path, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    block, inputs = load_block(folder)

    def run() -> np.ndarray:
        with torch.no_grad():
            return block(*inputs).numpy()

    return run


def export(folder: Path) -> Path:
    """The block as ONNX, by PyTorch's exporter."""
    import contextlib
    import logging

    import torch

    logging.disable(logging.WARNING)
    path = folder / "block.onnx"
    if not path.exists():
        block, inputs = load_block(folder)
        with contextlib.redirect_stdout(sys.stderr):
            torch.onnx.export(
                block, inputs, path, input_names=list(ARGUMENTS), output_names=["out"],
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    return path


def onnx_runtime(folder: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(export(folder)), options, providers=["CPUExecutionProvider"]
    )
    inputs = dict(np.load(folder / "inputs.npz"))
    return lambda: session.run(["out"], inputs)[0]


def openvino(folder: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bf16 where the processor has it
    }
    compiled = core.compile_model(core.read_model(export(folder)), "CPU", settings)
    request = compiled.create_infer_request()
    inputs = dict(np.load(folder / "inputs.npz"))

    def run() -> np.ndarray:
        request.infer(inputs)
        return request.get_output_tensor(0).data

    return run


RUNTIMES = {"torch": pytorch, "onnxruntime": onnx_runtime, "openvino": openvino}


def main() -> None:
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    ready: dict[str, Run] = {}
    for name, make in RUNTIMES.items():
        try:
            run = make(folder, threads)
            np.save(folder / f"{name}.npy", run())
            run()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            ready[name] = run
    print(*(f"{name}={importlib.metadata.version(name)}" for name in ready), flush=True)
    for line in sys.stdin:
        begin, worked = time.perf_counter(), time.process_time()
        ready[line.strip()]()
        print(time.perf_counter() - begin, time.process_time() - worked, flush=True)


if __name__ == "__main__":
    main()
