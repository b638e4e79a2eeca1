"""The peer of the training-step benchmark: the same decoder in plain PyTorch. Imports nothing of this project.

Runs in an interpreter of its own: `python train_step_torch.py TASK eager|compiled`.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch  # type: ignore[import-not-found]  # of another interpreter
import torch.nn.functional as F  # type: ignore[import-not-found]  # noqa: N812 (its usual name)
from torch import nn


class Norm(nn.Module):
    """RMSNorm whose gain follows the activations' type, so that the fused form is taken."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        return F.rms_norm(x, x.shape[-1:], self.gain.to(x.dtype), self.eps)


class Block(nn.Module):
    """Pre-norm causal attention with rotary positions, and SwiGLU."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        width, hidden = model["d_model"], model["d_ff"]
        self.heads, self.kv_heads, self.head_dim = model["num_heads"], model["num_kv_heads"], model["head_dim"]
        self.residual_scale = model["scale_depth"] / model["num_layers"] ** 0.5
        self.attention_norm = Norm(width, model["rms_norm_eps"])
        self.mlp_norm = Norm(width, model["rms_norm_eps"])
        self.qkv = nn.Linear(width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.output = nn.Linear(self.heads * self.head_dim, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        batch, length, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)

        def rotate(z: torch.Tensor) -> torch.Tensor:
            a, b = z.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(z.dtype)

        grouped = self.heads != self.kv_heads
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=grouped)
        x = x + self.residual_scale * self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.residual_scale * self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """Embedding, blocks, and the embedding again as the head; gives the mean loss."""

    def __init__(self, model: dict[str, Any], length: int) -> None:
        super().__init__()
        half = model["head_dim"] // 2
        angles = torch.outer(torch.arange(length), model["rope_theta"] ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        self.scale_emb, self.dtype = model["scale_emb"], getattr(torch, model["compute_dtype"])
        self.embedding = nn.Embedding(model["vocab_size"], model["d_model"])
        self.blocks = nn.ModuleList(Block(model) for _ in range(model["num_layers"]))
        self.norm = Norm(model["d_model"], model["rms_norm_eps"])
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=model["init_std"])

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of the targets."""
        x = self.scale_emb * self.embedding(inputs).to(self.dtype)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def stepper(task: dict[str, Any], mode: str) -> Callable[[], None]:
    """A function that trains the steps of one dispatch and reads the last loss.

    Parameters are float32, as ours are; under bfloat16 products are cast to it (autocast).
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    decoder = Decoder(task["model"], task["sequence_length"]).to(device)
    loss_of = torch.compile(decoder) if mode == "compiled" else decoder
    adamw = torch.optim.AdamW(decoder.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    shape = (task["batch_size"], task["sequence_length"] + 1)
    rows = torch.randint(0, task["model"]["vocab_size"], shape, device=device)
    cast = torch.autocast(device, torch.bfloat16, enabled=decoder.dtype == torch.bfloat16)
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def train() -> None:
        for _ in range(task["execution"]["steps_per_dispatch"]):
            adamw.zero_grad(set_to_none=True)
            with cast:
                loss = loss_of(inputs, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            adamw.step()
        loss.item()

    return train


def peak_bytes() -> int:
    """Most memory held so far: on the GPU, or by this process (compilation included) without one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Serves the protocol of `experiments.benchmarks.contenders.Contender`."""
    task, mode = json.loads(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    train = stepper(task, mode)
    tokens = task["execution"]["steps_per_dispatch"] * task["batch_size"] * task["sequence_length"]
    for _ in range(3):
        train()
    facts = {"python": sys.version.split()[0], "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(facts | {"peak_bytes": peak_bytes()}), flush=True)
    for line in sys.stdin:
        taken: list[float] = []
        began = time.perf_counter()
        while not taken or time.perf_counter() - began < float(line):
            start = time.perf_counter()
            train()
            taken.append(time.perf_counter() - start)
        answer = {"tokens_per_second": tokens / statistics.median(taken), "seconds": time.perf_counter() - began}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
