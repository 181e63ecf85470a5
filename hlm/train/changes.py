"""What changed in the config of a run since its checkpoint, and what that means for going on."""

from typing import Any

from hlm.config import Experiment
from hlm.registry import from_json

MEANS = {  # by the longest prefix of a field's name
    "": "it holds from here on",
    "accumulate": "the same numbers, rounded otherwise",
    "average": "a new one begins with the parameters of this step",
    "every": "the numbers stay the same",
    "keep": "the numbers stay the same",
    "mesh": "the same numbers, rounded otherwise",
    "data.source": "the position in the old text is counted on in the "
    "new; --fresh-data begins it anew",
    "data.threads": "the numbers stay the same",
    "data.prefetch": "the numbers stay the same",
    "model": "the parameters fit, but are used otherwise from here on",
    "optim": "the optimizer's state is kept and used otherwise from here on",
    "rows": "batches are of another size from here on",
    "test": "the report at the end is of other text",
    "valid_rows": "the same numbers, rounded otherwise",
    "valid": "numbers of the validation cannot be compared with those before",
}
COMPUTED_AGAIN = ("remat", "keep_projections")  # of any stack
LONGEST = 60


def told(old: Any, new: Any, step: int, exp: Experiment) -> list[str]:
    """A line for each field that differs between two configs as JSON. Raises ValueError for what
    cannot be meant.

    `exp` is the new one, and `step` where it goes on.
    """
    lines = []
    for name, was, now in differences(old, new):
        if name == "steps" and now < step:
            raise ValueError(
                f"steps: {now}, but the checkpoint is of step {step}: give at least {step}, "
                "or another --workdir"
            )
        if name == "model.codec" or (
            name.startswith("model.codec.") and not name.startswith("model.codec.split")
        ):
            raise ValueError(
                f"{name}: was {short(was)} and is {short(now)}: the parameters know other "
                "symbols; change it back"
            )
        if name == "steps":
            means = schedule(old, step, exp)
        elif name.rpartition(".")[2] in COMPUTED_AGAIN:
            means = "the same numbers, rounded otherwise"
        else:
            means = MEANS[max((p for p in MEANS if within(name, p)), key=len)]
        lines.append(f"since step {step}: {name} was {short(was)} and is {short(now)}: {means}")
    return lines


def schedule(old: Any, step: int, exp: Experiment) -> str:
    """What another number of steps does to the learning rate."""
    now = float(exp.optim.learning_rate(step, exp.steps))
    try:
        was = float(from_json(old["optim"]).learning_rate(step, old["steps"]))
    except (ValueError, TypeError, KeyError, AttributeError):  # of another version
        return f"the learning rate goes on at {now:.3g}"
    if abs(was - now) <= 1e-6 * abs(was):
        return f"the learning rate goes on as it was, at {now:.3g}"
    return (
        f"the learning rate goes on at {now:.3g}, not at {was:.3g}, as the schedule is spread "
        "over all steps; "
        "optim.decay=Constant() or WarmupStableDecay() can be continued"
    )


def differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of the smallest parts that differ; parts of another class differ as a
    whole.
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.get("_") == new.get("_"):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            d
            for key in keys
            for d in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new)
        and any(isinstance(x, dict) for x in old)
    ):
        return [
            d
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for d in differences(a, b, f"{name}.{i}")
        ]
    return [] if old == new else [(name, old, new)]


def within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def short(value: Any) -> str:
    """A value in at most a line: of a part, its class."""
    text = value["_"] if isinstance(value, dict) and "_" in value else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
