"""The PyTorch peer of the sparse-attention benchmark: dense causal scaled_dot_product_attention of the same shape.

A script for any interpreter that has PyTorch; it imports nothing of ours. Arguments: the shape as JSON, and "forward"
or "both" (with gradients).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch  # type: ignore[import-not-found]  # of another interpreter
from torch.nn import functional  # type: ignore[import-not-found]


def attention(shape: dict[str, Any], mode: str) -> Callable[[], None]:
    """A function that runs one pass and waits for the device."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, shape["dtype"])

    def drawn(heads: int) -> torch.Tensor:
        x = torch.randn(shape["B"], heads, shape["T"], shape["h"], device=device, dtype=dtype)
        return x.requires_grad_(mode == "both")

    q, k, v = drawn(shape["H"]), drawn(shape["K"]), drawn(shape["K"])
    do = torch.randn_like(q)

    def run() -> None:
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shape["H"] != shape["K"])
        if mode == "both":
            torch.autograd.grad(o, (q, k, v), do)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Serves the protocol of `experiments.benchmarks.contenders.Contender`."""
    shape, mode = json.loads(sys.argv[1]), sys.argv[2]
    run, tokens = attention(shape, mode), shape["B"] * shape["T"]
    for _ in range(3):
        run()
    print(json.dumps({"python": sys.version.split()[0], "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        taken: list[float] = []
        began = time.perf_counter()
        while not taken or time.perf_counter() - began < float(line):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        answer = {"tokens_per_second": tokens / statistics.median(taken), "seconds": time.perf_counter() - began}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
