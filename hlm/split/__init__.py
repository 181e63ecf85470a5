"""Splitters: segmentation rules that say where the chunks of a text end.

`splitter.levels(text, complete)` cuts a whole text on the host; `splitter.rule()` cuts the same
text byte by byte on the device, so that generation finds the ends that training saw.
`hlm/split/rule.py` declares both, and each other file holds both forms of its rules.
"""

from hlm.split.fixed import After, Fixed, Unsplit
from hlm.split.hat import HatSplitter
from hlm.split.rule import Splitter
from hlm.split.space_like import SpaceLike
from hlm.split.word_groups import WordGroups
from hlm.split.words import Words

__all__ = [
    "After",
    "Fixed",
    "HatSplitter",
    "SpaceLike",
    "Splitter",
    "Unsplit",
    "WordGroups",
    "Words",
]
