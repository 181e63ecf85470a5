"""Sources of record formats, by an older name of their place."""

from hlm.data.formats.array_record import ArrayRecord
from hlm.data.formats.tfds import Tfds

__all__ = ["ArrayRecord", "Tfds"]
