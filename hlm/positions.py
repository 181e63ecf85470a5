"""Positions in the data: what a checkpoint says of where each process was, and how a run with as
many processes, or others, goes on from there.
"""

import contextlib
import json
import re
from typing import Any

import jax
from etils import epath

from hlm.data.deal import DEAL, OtherDeal


class OtherData(ValueError):
    """A sound position in the data, but of other data than these."""


def move(data: Any, item: epath.Path, beginning: dict[str, Any]) -> str:
    """Set the position of this process's `data` to the one that is saved; what is to be said of it.

    Raises OtherData if it is not of these data, or tells of other data than the state `beginning`.
    """
    mine = item / f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    same_count = mine.exists()
    states = [json.loads(mine.read_text())] if same_count else of_each_share(item)
    for name in ("made_with", "contents") if beginning else ():
        was, now = (whatever_the_deal(state.get(name)) for state in (states[0], beginning))
        if was is not None and was != json.loads(json.dumps(now)):
            raise OtherData(" ".join(f"{name} was {was} and is {now}"[:400].split()))
    own = share_of(data.get_state())
    try:  # a file that is not of these data is sound all the same
        for state in states:
            if same_count or (own is not None and share_of(state) == own):
                with contextlib.suppress(OtherDeal):
                    data.set_state(state)
                    return ""
        return data.redeal(of_each_share(item))
    except ValueError as error:
        raise OtherData(str(error)) from error


def share_of(state: Any) -> tuple[int, int] | None:
    """Which share of the records a position is of, and of how many; None if it does not say."""
    made_with = state.get("made_with") if isinstance(state, dict) else None
    index, count = ((made_with or {}).get(name) for name in DEAL[:2])
    return None if index is None or count is None else (index, count)


def of_each_share(item: epath.Path) -> list[Any]:
    """The saved positions of all processes; once, where several read the same (sharding.share)."""
    found: dict[Any, Any] = {}
    for process, path in enumerate(all_of(item)):
        state = json.loads(path.read_text())
        found.setdefault(share_of(state) or process, state)
    return list(found.values())


def all_of(item: epath.Path) -> list[epath.Path]:
    """The files of the positions of all processes, in order."""
    found = ((re.fullmatch(r"process_(\d+)-of-\d+.json", p.name), p) for p in item.iterdir())
    return [path for _, path in sorted((int(m[1]), path) for m, path in found if m)]


def whatever_the_deal(settings: Any) -> Any:
    """Settings of data without those that may be others for the same data."""
    if not isinstance(settings, dict):
        return settings
    return {name: value for name, value in settings.items() if name not in DEAL}
