"""How orbax writes the items of a checkpoint: arrays uncompressed (to compress floats costs more
time than it saves room), with digests.
"""

import asyncio
import json
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import future

from hlm import digests


class Arrays(ocp.type_handlers.ArrayHandler):
    """Orbax's handler of arrays, but a read that fails waits for those begun with it. Shardings,
    which every reader gives, are not kept.

    Orbax closes their event loop at the first failure; reads still under way then report to a
    closed loop, from threads of their own.
    """

    def __init__(self) -> None:
        super().__init__(enable_write_sharding_file=False)

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        others = asyncio.all_tasks()
        try:
            return await super().deserialize(infos, args)
        except Exception:
            while begun := asyncio.all_tasks() - others:
                await asyncio.wait(begun)
            raise


class Tree(ocp.PyTreeCheckpointHandler):
    """A tree of arrays."""

    def __init__(self) -> None:
        super().__init__(use_compression=False)

    async def async_save(self, directory: Any, *args: Any, **options: Any) -> Any:
        written = await super().async_save(directory, *args, **options) or []
        if jax.process_count() == 1:
            return written

        async def digest() -> None:
            for one in written:
                one.result()
            i = jax.process_index()
            digests.write_part(
                epath.Path(getattr(directory, "path", directory)), f"ocdbt.process_{i}", i
            )

        return [future.CommitFutureAwaitingContractedSignals(digest())]

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(directory)
        digests.write(directory)


class Config(ocp.JsonCheckpointHandler):
    """The experiment as JSON."""

    def finalize(self, directory: epath.Path) -> None:
        digests.write(directory)


class Position(ocp.JsonCheckpointHandler):
    """Each process's position in its data, in a file of its own, as grain names it.

    Unlike grain's handler it keeps no one waiting.
    """

    async def async_save(self, directory: Any, args: Any) -> Any:  # type: ignore
        text = json.dumps(args.item.get_state())
        name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"

        async def write() -> None:
            (epath.Path(getattr(directory, "path", directory)) / name).write_text(text)

        return [future.CommitFutureAwaitingContractedSignals(write())]

    def finalize(self, directory: epath.Path) -> None:
        digests.write(directory)


@ocp.args.register_with_handler(Tree, for_save=True, for_restore=True)
class SaveTree(ocp.args.PyTreeSave):
    pass


@ocp.args.register_with_handler(Config, for_save=True, for_restore=True)
class SaveConfig(ocp.args.JsonSave):
    pass


@ocp.args.register_with_handler(Position, for_save=True, for_restore=True)
class SavePosition(ocp.args.JsonSave):
    pass


def handlers() -> dict[str, Any]:
    trees = {name: Tree() for name in ("params", "train", "average", "guard")}
    return {"config": Config(), "data": Position()} | trees
