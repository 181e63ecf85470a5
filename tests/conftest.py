"""Every test: a CPU with eight devices, strict dtypes and ranks, programs compiled quickly rather
than well and kept for next time.
"""

import gc
import itertools
import os
import pathlib
import re

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiles seven times faster; without it the laws of one config would take minutes.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
# Eight devices on busy cores may wait for each other longer than the 40 s after which XLA aborts.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=900"
os.environ["XLA_FLAGS"] = f"{QUICK} {PATIENT} --xla_force_host_platform_device_count=8"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path.home() / ".cache" / "hlm-tests")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax  # noqa: E402  (the variables above must be set first)
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# tracing makes many objects that live long: a tenth of its time went into looking for garbage
gc.set_threshold(50_000, 20, 20)

ROOT = pathlib.Path(__file__).parents[1]
MOST_MAPS = 30_000  # Linux allows a process 65,530
TESTS = itertools.count(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process runs all laws of a config, which share what it compiled, and all other tests of a
    file. Long ones come first by name.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByConfigOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            found = re.search(r"\[(\w+-tiny\w*)", nodeid)
            return found[1] if found else nodeid.split("::")[0]

    config.option.loadscopereorder = False  # by number of tests, which is not how long they take
    return ByConfigOrFile(config, log)


@pytest.fixture(autouse=True)
def programs_are_forgotten():
    """XLA maps memory for each compiled program, and dies without a word where the process has no
    more maps.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if next(TESTS) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """A folder of large files beside the repository, or $HLM_SHARED; tests that need it are skipped
    where it is not.
    """
    folder = pathlib.Path(os.environ.get("HLM_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set HLM_SHARED")
    return folder


@pytest.fixture
def optax_promotes():
    """For tests that run an optimizer: optax raises a float to an integer's power."""
    with jax.numpy_dtype_promotion("standard"):
        yield
