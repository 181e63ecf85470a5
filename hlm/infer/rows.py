"""How many rows an evaluation reads at once: a matter of memory and devices, not of training."""

import jax
import numpy as np

from hlm import sharding
from hlm.config import Experiment
from hlm.infer import given

ELEMENTS = 65_536  # of rows on a device by default: at width 2,048, half a GiB for each activation


def at_once(
    asked: int | None, experiment: Experiment, mesh: jax.sharding.Mesh, name: str = "rows"
) -> int:
    """Rows of a batch over all devices of the mesh, the same number on each; `name` of the setting.

    None: those of a micro-batch of training, but at most `ELEMENTS` elements a device.
    """
    shards = int(np.prod([mesh.shape[axis] for axis in sharding.RULES["batch"]]))
    if asked is None:
        most = max(ELEMENTS // experiment.data.length, 1)
        return shards * min(-(-experiment.rows // (experiment.accumulate * shards)), most)
    asked = given.whole(asked, name, 1)
    if asked % shards:
        near = [n for n in (asked // shards * shards, -(-asked // shards) * shards) if n]
        raise ValueError(
            f"{name}: {asked} is not a multiple of the {shards} devices that rows are split over: "
            f"give {' or '.join(f'{name}={n}' for n in near)}"
        )
    return asked
