"""Importing this module makes glibc keep the memory that XLA frees on a CPU.

XLA:CPU allocates and frees its large buffers at every step; glibc would map and unmap them, which can cost half the time of a step.
"""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to do
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_ARENA_MAX, 1)
