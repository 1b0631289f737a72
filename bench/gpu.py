"""Images per second of `plugin.torch_engine` on a GPU, against what the card itself can do, measured in the same run.

    python -m bench.gpu [--device cuda] [--side 2048] [--model FILE]

Not part of `make bench`, which needs no GPU. The model is asked for batches of prepared inputs, and for batches that it
prepares itself from 12-bit square images in this process's memory. The limits are a large matrix product in the same
precision, for the model's 5.5 GFLOP per image, and a copy within the card's memory, for the memory that DenseNet121
moves if each layer reads its inputs and writes its outputs once. What workers have of it, `bench/workers.py` measures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from plugin import torch_engine, weights
from plugin.classifier import ModelUnavailable, Precision
from plugin.pixels import Pixels
from plugin.torch_engine import TorchClassifier
from tests import images

BUILD = Path(__file__).parent.parent / "build"

FLOP = 5.51e9
"""Per image, in DenseNet121's convolutions."""

BATCHES = (1, 16, 64, 256)


def rate(work: Callable[[], Any], amount: float, device: str, seconds: float = 2) -> float:
    """`amount` per second, over at least `seconds`, after one warm-up."""
    work()
    _finish(device)
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        _finish(device)
        times += 1
    return amount * times / (time.perf_counter() - start)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def limits(classify: TorchClassifier, device: str) -> tuple[float, float]:
    """Images per second that the card's arithmetic and its memory allow."""
    n = 8192 if device == "cuda" else 1024
    matrix = torch.randn(n, n, device=device, dtype=getattr(torch, classify.precision))
    memory = torch.randn(1 << 28 if device == "cuda" else 1 << 24, device=device)
    flop = rate(lambda: matrix @ matrix, 2 * n**3, device)
    traffic = rate(lambda: memory.clone(), 2 * memory.nbytes, device)
    return flop / FLOP, traffic / bytes_moved(classify)


def bytes_moved(classify: TorchClassifier) -> float:
    """Bytes per image, if every operator reads its inputs and writes its output once."""
    moved = 0.0

    class Counting(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            nonlocal moved
            result = super().run_node(n)
            if n.op == "call_function":
                inputs, _ = self.fetch_args_kwargs_from_env(n)
                flat = [part for one in inputs for part in (one if isinstance(one, tuple) else (one,))]
                moved += sum(one.nbytes for one in (*flat, result) if isinstance(one, torch.Tensor))
            return result

    with torch.inference_mode():
        Counting(classify.network).run(torch.zeros(1, 1, 224, 224, device=classify.device))
    return moved / (2 if classify.precision == "bfloat16" else 1)


def lines(path: Path, device: str, side: int) -> Iterator[str]:
    """The table, as Markdown."""
    name = torch.cuda.get_device_name() if device == "cuda" else "the processor"
    yield f"Images per second on {name}, torch {torch.__version__}; pixels are {side}x{side}.\n"
    yield "| precision | batch | model | pixels to scores | arithmetic allows | memory allows |"
    yield "|---|---|---|---|---|---|"
    image = Pixels(images.pattern(side, side, 12), 12, False, ())
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        classify = torch_engine.load(path, device, precision)
        allowed = limits(classify, device)
        for n in BATCHES:
            pixels = [image] * n
            inputs = classify.prepare(pixels)
            model = rate(lambda: classify(inputs), n, device)  # noqa: B023 - used at once
            both = rate(lambda: classify(classify.prepare(pixels)), n, device)  # noqa: B023
            yield f"| {precision} | {n} | {model:.0f} | {both:.0f} | {allowed[0]:.0f} | {allowed[1]:.0f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--model", type=Path, help="a prepared model; else stand-in weights are made")
    chosen = parser.parse_args(arguments)
    try:
        path = chosen.model or weights.prepare(weights.STAND_IN, "", BUILD / "models")
        for line in lines(path, chosen.device, chosen.side):
            print(line, flush=True)
    except ModelUnavailable as sentence:
        raise SystemExit(str(sentence)) from None


if __name__ == "__main__":
    main()
