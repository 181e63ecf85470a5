"""Importing this module prepares the process: what glibc does with memory that XLA frees, and a
cache of compiled programs. `import hlm` does so first of all.

XLA:CPU allocates and frees its large buffers at every step; glibc would map and unmap them, which
can cost a quarter of a step. So it does in every heap but its first, and a library that starts
threads (numpy, jax) may have made a second one: import hlm before them. Compiled programs are kept
under ~/.cache/hlm (set JAX_COMPILATION_CACHE_DIR to move them), so that a run started again, an
evaluation or a notebook does not compile again.
"""

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to do
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_ARENA_MAX, 1)

import jax  # noqa: E402

if jax.config.values["jax_compilation_cache_dir"] is None:
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/hlm/compiled"))
