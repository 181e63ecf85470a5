"""AU-Net: an autoregressive U-Net over bytes, words and groups of words (Videau et al. 2025).

arXiv 2506.14761. The idea: contract and expand like a U-Net, but causally. Each stage keeps the
vectors at the ends of its units (a word, two words), the deepest stage does most of the work, and
on the way up a unit's vector is spread over the bytes that follow its end, by a projection of its
own for each distance from the end; skip connections carry the detail.

    bytes [B, L, D0] ── stage ── select at ends ── [B, S1, D1] ── stage ── select ── ... trunk
                          │
                          └── skip + W y + W_off(t) y ── stage

    off(t) = elements since the end, modulo 16

In the core: the pool `hlm.pool.Select`, the unpool `hlm.unpool.Broadcast` (the paper's "repeat",
enough for two stages) and the splitter `hlm.split.WordGroups`.

Where the released code differs: its regular expressions look ahead, so that up to 0.35 % of
earlier ends change with what follows; documents of a row attend to each other; inference leaves
out the last norm.
"""

import jax
from flax import linen as nn

from hlm.model.unpool import Unpool, distance
from hlm.nn.basic import Linear, Norm, weight
from hlm.nn.projection import project
from hlm.seq import Boundaries, take

Array = jax.Array


class Offset(Unpool):
    """Multi-linear up-sampling: as `hlm.unpool.Broadcast`, plus one projection per distance from
    the end, modulo `size`.
    """

    size: int = 16
    norm: Norm | None = None

    @nn.compact
    def __call__(self, z_BSE: Array, skip_BLD: Array, b: Boundaries) -> Array:
        B, S, E = z_BSE.shape
        D, N = skip_BLD.shape[-1], self.size
        if self.norm is not None:
            z_BSE = self.norm(self, z_BSE, "unpool")
        shared_BSD = Linear(D, name="linear")(z_BSE)
        y_BSND = project(z_BSE, weight(self, "slot", (E, N, D))) + shared_BSD[:, :, None]
        return skip_BLD + take(y_BSND.reshape(B, S * N, D), b.seen * N + distance(b) % N)
