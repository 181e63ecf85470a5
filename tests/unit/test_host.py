"""hlm.host: one heap, whatever threads are started, so that large buffers are not mapped anew."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, re, sys, tempfile
import hlm.train.step
import jax, jax.numpy as jnp
for width in (64, 96):  # a program whose compiler and products use threads
    jax.jit(lambda x: jnp.tanh(x @ x) @ x)(jnp.ones((width * 8, width * 8))).block_until_ready()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as out:
    stream = ctypes.c_void_p(libc.fopen(out.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(len(re.findall(b"<heap nr=", out.read())))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are of glibc")
def test_a_program_that_imports_hlm_first_has_one_heap():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout.split() == ["1"], done.stderr
