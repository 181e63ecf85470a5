"""Where arrays live: a mesh (replica, data, model) and two tables, leaf name -> logical axes ->
mesh axis. GSPMD does the rest.

`replica` is pure data parallelism (across slices), `data` shards rows and, as FSDP, the parameters;
`model` is tensor parallelism. Byte-level stages of a hierarchy are narrow and long: their weights
are never split over `model` (see LOCAL).
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

# Leaf name -> logical axes. A scanned stack adds leading axes, which are never sharded. One axis
# means a gain or bias: no weight decay.
PARAMS: dict[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "embed"),
    "position": (None, "embed"),
    "head": ("embed", None, "vocab"),
    "q": ("embed", "heads", None),
    "k": ("embed", "heads", None),
    "v": ("embed", "heads", None),
    "o": ("heads", None, "embed"),
    "r": ("embed", "heads", None),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
    "kernel": ("embed", None),
    "slot": (None, None, "embed"),
    "conv": (None, None),
    "query": (None, "embed"),
    "scale": (None,),
    "bias": (None,),
    "start": (None,),
    "stop": (None,),
    "log": (None,),
}
RULES: dict[str, str | tuple[str, ...]] = {
    "batch": ("replica", "data"),
    "vocab": "model",
    "embed": "data",
    "heads": "model",
    "mlp": "model",
}
LOCAL = {axis: mesh_axis for axis, mesh_axis in RULES.items() if axis not in ("heads", "mlp")}


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 takes what is left."""

    replica: int = 1
    data: int = -1
    model: int = 1

    def make(self, devices: Any = None) -> jax.sharding.Mesh:
        devices = np.asarray(jax.devices() if devices is None else devices)
        shape = [self.replica, self.data, self.model]
        if shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
            raise ValueError(
                f"mesh: axes must be positive and at most one -1 (what is left), got {self}: "
                "give mesh.replica=1 mesh.data=-1 mesh.model=1, or more of one of them"
            )
        if -1 in shape:
            shape[shape.index(-1)] = max(devices.size // -int(np.prod(shape)), 1)
        if int(np.prod(shape)) != devices.size:
            asked = " x ".join(map(str, shape))
            raise ValueError(
                f"mesh: {asked} devices (replica x data x model) but there are "
                f"{devices.size}: give {' or '.join(self.nearest(devices.size))}"
            )
        names, types = ("replica", "data", "model"), (AxisType.Auto,) * 3
        slices = len({getattr(device, "slice_index", 0) for device in devices.ravel()})
        if shape[0] % slices:
            raise ValueError(
                f"mesh.replica: {shape[0]} is not a multiple of the {slices} slices, between which "
                f"only gradients should travel: give mesh.replica={slices}"
            )
        within = (shape[0] // slices, *shape[1:])
        # an axis of the mesh may be a part of one of the torus: 2 x 512 on 8x8x16
        split = dict(allow_split_physical_axes=True)
        if slices == 1:
            grid = mesh_utils.create_device_mesh(within, devices.ravel(), **split)
        else:
            grid = mesh_utils.create_hybrid_device_mesh(
                within, (slices, 1, 1), devices.ravel(), **split
            )
        return jax.sharding.Mesh(grid, names, axis_types=types)

    def nearest(self, devices: int) -> list[str]:
        """Settings of one axis with which so many devices are a mesh, the next below and above; if
        there is none, of all axes.
        """
        given = dataclasses.asdict(self)
        free = -1 in given.values()
        found = []
        for name, asked in given.items():
            others = math.prod(n for axis, n in given.items() if axis != name and n != -1)
            fits = [
                n
                for n in range(1, devices + 1)
                if (devices % (n * others) == 0 if free else n * others == devices)
            ]
            if asked != -1:
                below, above = (n for n in fits if n <= asked), (n for n in fits if n > asked)
                near = [max(below, default=0), min(above, default=0)]
                found += [f"mesh.{name}={n}" for n in near if n]
        return found or ["mesh.replica=1 mesh.data=-1 mesh.model=1"]


def leaf_axes(path: tuple) -> tuple[str | None, ...]:
    """Logical axes of the parameter at a tree path; optimizer state has the same leaf names."""
    name = leaf_name(path)
    if name not in PARAMS:
        raise KeyError(
            f"no sharding for the parameter {keystr(path)}: add {name!r} to hlm.sharding.PARAMS"
        )
    return PARAMS[name]


def keystr(path: tuple) -> str:
    """The name of a parameter at a tree path: trunk/encoder/block/mlp/up."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_name(path: tuple) -> str:
    """The last dictionary key of a tree path.

    A gain such as `mlp_scale` is named by its last word.
    """
    keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    return keys[-1].rsplit("_", 1)[-1] if keys else ""


def spec(
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    rules: dict,
) -> P:
    """Logical axes -> PartitionSpec; an axis that does not divide is replicated; two axes on one
    mesh axis are refused.
    """
    axes = (None,) * (len(shape) - len(axes)) + axes
    out: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        where = rules.get(axis) if axis else None
        parts = (where,) if isinstance(where, str) else where or ()
        out.append(
            where if parts and size % int(np.prod([mesh.shape[p] for p in parts])) == 0 else None
        )
    used = [p for where in out if where for p in ((where,) if isinstance(where, str) else where)]
    if len(used) != len(set(used)):
        raise ValueError(
            f"two logical axes of {axes} map to one mesh axis: {out}; change hlm.sharding.RULES"
        )
    return P(*out)


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A NamedSharding for every leaf of a tree of parameters or of optimizer state; scalars and
    what belongs to no parameter are replicated.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    hierarchical = any("backbone" in _keys(path) for path in paths)

    def one(path: tuple, leaf: Any) -> NamedSharding:
        if not leaf.ndim or not isinstance(path[-1], jax.tree_util.DictKey):
            return NamedSharding(mesh, P())  # a count or a coefficient, no parameter
        local = hierarchical and "backbone" not in _keys(path)
        return NamedSharding(
            mesh, spec(leaf_axes(path), leaf.shape, mesh, LOCAL if local else RULES)
        )

    return jax.tree_util.tree_map_with_path(one, tree)


def unsplit(params: Any, mesh: jax.sharding.Mesh, most: float = 0.1) -> str:
    """What to know of parameters that every device holds whole, as `mesh.data` does not divide
    their width: a line with the mesh that would split all but `most` of them; "" if this one does.

    Without it, 7 billion parameters of width 4,608 on 1,024 devices take 110 GB of each.
    """
    widths: dict[int, int] = {}  # parameters by the width that is to be split
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        axes = (None,) * (leaf.ndim - len(leaf_axes(path))) + leaf_axes(path)
        for axis, size in zip(axes, leaf.shape, strict=True):
            if axis and RULES[axis] == "data":
                widths[size] = widths.get(size, 0) + leaf.size

    def whole(data: int) -> float:
        """Share of the parameters that so many devices would hold whole."""
        held = sum(n for width, n in widths.items() if width % data)
        return held / max(sum(leaf.size for _, leaf in leaves), 1)

    devices = mesh.shape["data"]
    if (share := whole(devices)) <= most:
        return ""
    data = max(n for n in range(1, devices) if devices % n == 0 and whole(n) <= most)
    odd = ", ".join(str(width) for width in sorted(widths) if width % devices)
    return (
        f"mesh.data: {devices} does not divide the width {odd}, so every device holds {share:.0%} "
        f"of the parameters whole: mesh.replica={mesh.shape['replica'] * devices // data} "
        f"mesh.data={data} splits them"
    )


def _keys(path: tuple) -> list[str]:
    return [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]


def rows(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Arrays [B, ...] split by rows over every data-parallel device."""
    return NamedSharding(mesh, P(RULES["batch"]))


def share(mesh: jax.sharding.Mesh, process: int | None = None) -> tuple[int, int]:
    """(this process's share of the rows of a batch, number of shares).

    A share is what one process's devices hold. Processes that `model` goes across hold the same
    rows, so they are one share and read the same text. Raises ValueError where rows are held
    otherwise.
    """
    process = jax.process_index() if process is None else process
    held: dict[int, set[int]] = {}  # blocks of rows by process; rows are split over the first axes
    for block, row in enumerate(mesh.devices.reshape(-1, mesh.shape["model"])):
        for device in row:
            held.setdefault(device.process_index, set()).add(block)
    shares = sorted({tuple(sorted(blocks)) for blocks in held.values()})
    if len({len(blocks) for blocks in shares}) > 1 or len({b for s in shares for b in s}) < sum(
        map(len, shares)
    ):
        each = mesh.devices.size // len(held)
        raise ValueError(
            f"mesh.model: {mesh.shape['model']} devices hold the same rows, but a process has "
            f"{each} and would hold parts of another's: give a divisor or a multiple of {each}"
        )
    return shares.index(tuple(sorted(held[process]))), len(shares)


def put(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """The rows of this process's share (numpy) -> global arrays split by rows."""
    sharding = rows(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def spread(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Rows that every process has in full (numpy) -> global arrays split by rows."""
    sharding = rows(mesh)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), batch
    )


def everywhere(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Whole arrays on every device."""
    return NamedSharding(mesh, P())


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation to the mesh in use, by logical axes; does nothing outside a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh, RULES))
