"""What a compiled program sends, read in its text."""

import pytest

from hlm.hlo import collectives, group_of

HLO = """HloModule step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%carry.1 (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=5, dimensions={0}
}

%carry.2 (p.2: bf16[4,8]) -> bf16[16,8] {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,8]{1,0} all-gather(%p.2), channel_id=5, dimensions={0}
}

%all-reduce-scatter.3 (q: f32[16]) -> f32[4] {
  %q = f32[16]{0} parameter(0)
  %all-reduce.9 = f32[16]{0} all-reduce(%q), channel_id=6, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = f32[4]{0} dynamic-slice(%all-reduce.9, %zero), dynamic_slice_sizes={4}
}

%body (b: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %b = (s32[], bf16[4,8]{1,0}) parameter(0)
  %w = bf16[4,8]{1,0} get-tuple-element(%b), index=1
  %f.1 = bf16[16,8]{1,0} fusion(%w), kind=kCustom, calls=%carry.1
  %f.2 = bf16[16,8]{1,0} fusion(%w), kind=kCustom, calls=%carry.2
  %g = f32[16]{0} constant({...})
  %f.3 = f32[4]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %before = s32[] get-tuple-element(%b), index=0
  %one = s32[]{:T(128)} constant(1)
  %after = s32[] add(%before, %one)
  %copy.1 = s32[] copy(%after)
  ROOT %t = (s32[], bf16[4,8]{1,0}) tuple(%copy.1, %w)
}

%condition (c: (s32[], bf16[4,8])) -> pred[] {
  %c = (s32[], bf16[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %limit = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: (s32[], bf16[4,8]), s: f32[2]) -> f32[2] {
  %a = (s32[], bf16[4,8]{1,0}) parameter(0)
  %s = f32[2]{0} parameter(1)
  %loop = (s32[], bf16[4,8]{1,0}) while(%a), condition=%condition, body=%body
  %both = (f32[2]{0}, /*index=1*/bf16[3]{0}) all-reduce(%s, %s), channel_id=7, to_apply=%add
  %start = (f32[2]{0}, f32[8]{0}) all-gather-start(%s), channel_id=8, dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
  ROOT %out = f32[2]{0} get-tuple-element(%both), index=0
}
"""


def test_collectives_count_loops_and_each_channel_once():
    found, unknown = collectives(HLO)
    assert unknown == 0
    assert {(c["kind"], c["dtype"]): (c["count"], c["bytes"]) for c in found} == {
        ("all-gather", "bf16"): (3, 3 * 16 * 8 * 2),
        ("reduce-scatter", "f32"): (3, 3 * 16 * 4),
        ("all-reduce", "f32"): (1, 8),
        ("all-reduce", "bf16"): (1, 6),
        ("all-gather", "f32"): (1, 32),
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [("direction=LT", "direction=NE"), ("add(%before, %one)", "multiply(%before, %one)")],
)
def test_a_loop_without_a_known_length_counts_once_and_is_reported(old, new):
    assert old in HLO
    found, unknown = collectives(HLO.replace(old, new))
    assert unknown == 1
    once = {"kind": "reduce-scatter", "dtype": "f32", "group": (), "count": 1, "bytes": 64}
    assert once in found


FUSED = """
%less (x: s32[], y: s32[]) -> pred[] {
  %x = s32[] parameter(0)
  %y = s32[] parameter(1)
  ROOT %lt = pred[] compare(%x, %y), direction=LT
}
"""


@pytest.mark.parametrize(
    ("old", "new", "times"),
    [
        ("direction=LT", "direction=LE", 4),
        (
            "ROOT %lt = pred[] compare(%i, %limit), direction=LT",
            "ROOT %f = pred[] fusion(%i, %limit), kind=kLoop, calls=%less",
            3,
        ),
        ("s32[]{:T(128)} constant(3)", "u32[] constant(3)", 3),
        # unrolled by the compiler: the counter grows by two
        ("%one = s32[]{:T(128)} constant(1)", "%one = s32[]{:T(128)} constant(2)", 2),
        # what the compiler notes holds, whatever the condition looks like
        ("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}', 7),
    ],
)
def test_a_loop_says_in_several_ways_how_often_it_runs(old, new, times):
    assert old in HLO
    text = HLO.replace(old, new).replace("\n%body (", f"{FUSED}\n%body (")
    found, unknown = collectives(text)
    assert unknown == 0
    assert next(c["count"] for c in found if c["kind"] == "reduce-scatter") == times


@pytest.mark.parametrize(
    ("rest", "group"),
    [
        ("replica_groups={{0,4},{1,5}}, x", (0, 4)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups={}, x", ()),
        ("source_target_pairs={{3,1},{1,3}}", (3, 1)),
    ],
)
def test_the_devices_of_a_group(rest, group):
    assert group_of(rest) == group
