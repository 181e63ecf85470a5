"""The most that a compiled step can make of a slice: seconds of products and of traffic by the
chip's published peaks, the bound on MFU that follows, and what would raise it.

MFU is needed FLOPs over what the chips could do. The bound takes products at their peak and hides
traffic behind them, or products behind traffic; `exposed` hides nothing. Neither counts what norms,
softmax and the optimizer read and write in HBM, so a real run stays below both.
"""

from typing import Any

from hlm.hlo import sent
from tpu.chips import Chip


def with_seconds(
    found: list[dict[str, Any]], chip: Chip, devices: list[Any]
) -> list[dict[str, Any]]:
    """Collectives with the devices of a group, the bytes that each sends, and the seconds that
    these take over the links along those axes of the torus that the group spans.
    """
    out = []
    for row in found:
        group = row["group"] or tuple(range(len(devices)))
        nbytes = sent(row["kind"], row["bytes"], len(group))
        ici = chip.ici and chip.ici * share_of_links([devices[i] for i in group], devices)
        made = {name: value for name, value in row.items() if name != "group"}
        seconds = nbytes / ici if ici else None
        out.append(made | {"devices": len(group), "sent": int(nbytes), "seconds": seconds})
    return out


def share_of_links(group: list[Any], devices: list[Any]) -> float:
    """Axes of the slice that a group of devices spans, over all that have more than one device."""

    def spanned(some: list[Any]) -> int:
        return sum(len(set(places)) > 1 for places in zip(*(d.coords for d in some), strict=True))

    return max(spanned(group), 1) / max(spanned(devices), 1)


def bound(r: dict[str, Any], chip: Chip) -> dict[str, float] | None:
    """Seconds of a step and MFU at most; None where the chip's peaks or the traffic are unknown."""
    if not chip.flops or not chip.ici or r.get("collectives_unread", "") is not None:
        return None
    peak = chip.flops / chip.cores
    needed, compute = (
        r[name] / peak for name in ("needed_flops_per_step_per_device", "flops_per_step_per_device")
    )
    traffic = sum(c["seconds"] for c in r["collectives"])
    return {
        "compute_seconds": compute,
        "traffic_seconds": traffic,
        "mfu": needed / max(compute, traffic),
        "mfu_exposed": needed / (compute + traffic),
    }


def reduced_in(r: dict[str, Any]) -> dict[str, int]:
    """Bytes that are reduced over devices, by element type, most first: gradients, mostly."""
    out: dict[str, int] = {}
    for c in r["collectives"]:
        if c["kind"] in ("all-reduce", "reduce-scatter"):
            out[c["dtype"]] = out.get(c["dtype"], 0) + c["bytes"]
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def said(r: dict[str, Any]) -> str:
    """The bound in a line."""
    sums = ", ".join(f"{n / 2**20:,.0f} MiB in {dtype}" for dtype, n in reduced_in(r).items())
    if r["bound"] is None:
        return f"no bound on MFU: the chip's peaks or the traffic are unknown; reduced: {sums or 0}"
    b = r["bound"]
    return (
        f"MFU at most {b['mfu']:.1%} ({b['mfu_exposed']:.1%} if no traffic is hidden): products "
        f"take {b['compute_seconds']:.3g} s, traffic {b['traffic_seconds']:.3g} s; reduced: "
        f"{sums or 0}"
    )


def advice(r: dict[str, Any]) -> str:
    """One line: what would raise the bound most, or make it fit."""
    micro = r["accumulate"]
    keep = " ".join(f"{field}=True" for field in r["remat"])
    room = r["better_room"]
    settings = " ".join(f"{name}={n}" for name, n in room["settings"].items()) if room else ""
    if r["unsplit"]:
        return r["unsplit"]
    if not r["fits"]:
        return (
            f"it does not fit: accumulate={2 * micro} (rows must divide), a larger slice, "
            "mesh.model=4 for the backbone, or less that is kept (keep_projections=False)"
        )
    gains = []
    if room:
        used = ", ".join(f"{n:.0%}" for n in r["slots_used"])
        gains.append((1 - min(r["slots_used"]), f"slots are used by {used}: {settings}"))
    half = r["memory"]["total"] < 0.5 * r["hbm_bytes"]
    if keep and half and r["recomputed"] > 0.1:
        gains.append((r["recomputed"], f"{r['recomputed']:.0%} is computed again: {keep}"))
    b = r["bound"]
    if b and b["traffic_seconds"] > 0.25 * b["compute_seconds"]:
        part = b["traffic_seconds"] / (b["compute_seconds"] + b["traffic_seconds"])
        if micro > 1 and half:
            text = f"accumulate={next(k for k in range(micro - 1, 0, -1) if micro % k == 0)}"
        else:
            text = "more rows, or fewer devices"
        gains.append((part, f"traffic is {part:.0%} of a step in which nothing is hidden: {text}"))
    if not gains:
        return "none: slots are used, little is computed again, traffic is small beside products"
    return max(gains)[1]
