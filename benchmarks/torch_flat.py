"""A flat byte model in PyTorch with fused attention, of the same shape as configs/flat.py: the
other side of benchmarks/gpu.py. Needs torch, which hlm does not.
"""

import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportMissingImports]

SYMBOLS = 260


class Block(nn.Module):
    """Pre-norm block: rotary attention (scaled_dot_product_attention), then SwiGLU."""

    def __init__(self, width: int, heads: int, feed_forward: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * feed_forward, bias=False)
        self.down = nn.Linear(feed_forward, width, bias=False)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        rows, length, width = x.shape
        qkv = self.qkv(self.before(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(rows, length, width))
        gate, up = self.gate_up(self.between(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def turned(x: Any, cos: Any, sin: Any) -> Any:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


class Flat(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, feed_forward: int, length: int):
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, width)
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, SYMBOLS, bias=False)
        half = width // heads // 2
        angle = torch.arange(length)[:, None] * 10000 ** (-torch.arange(half) / half)[None]
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, token: Any, target: Any) -> Any:
        x = self.embed(token)
        for block in self.blocks:
            x = checkpoint(block, x, self.cos, self.sin, use_reentrant=False)
        logits = self.head(self.norm(x)).float()
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def stepped(
    width: int,
    depth: int,
    heads: int,
    feed_forward: int,
    length: int,
    elements: tuple[int, ...],
    seconds: float,
) -> dict[str, Any]:
    """Bytes a second of a training step: bfloat16 by autocast, AdamW, blocks computed again."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = Flat(width, depth, heads, feed_forward, length)
    optim = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def one(token: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(token, token.roll(-1, 1))
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)
        return loss.detach()

    for size in elements:
        rows = max(size // length, 1)
        token = torch.randint(0, 256, (rows, length), device=device)
        try:
            one(token)
            one(token)
            break
        except torch.cuda.OutOfMemoryError:
            optim.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    else:
        raise MemoryError("no batch fits")
    wait()
    loss: Any = None
    done, start = 0, time.perf_counter()
    while done < 3 or time.perf_counter() - start < seconds:
        loss = one(token)
        done += 1
        wait()
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return {
        "seconds": took / done,
        "bytes_per_second": rows * length * done / took,
        "rows": rows,
        "length": length,
        "loss": float(loss),
        "peak_gib": peak,
        "torch": torch.__version__,
    }
