"""Local text as a TFDS data set, so that `Tfds("NAME", data_dir=DIR)` and `tfds.data_source("NAME",
data_dir=DIR)` read it offline.

    python -m hlm.data.local_text NAME train.txt [MORE...] --data-dir DIR \\
        [--split train] [--separator "\\n\\n"]

Written as ArrayRecord, without TensorFlow. A NAME that exists already is refused.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from hlm.data.pipeline import documents
from hlm.data.source import JsonLines, Source, TextFiles


class LocalText(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Whole documents of our sources, in order, with the features `text` (exact bytes) and
    `name`.
    """

    VERSION = tfds.core.Version("1.0.0")
    # nothing is downloaded; tfds 4.9.10 would look for checksums there, with a package that it does
    # not require
    code_path = None

    def __init__(self, name: str, splits: Mapping[str, Source], data_dir: str | None = None):
        self.name = name  # type: ignore  # a ClassVar for tfds, whose builders are named after their class
        self.splits = splits
        super().__init__(
            data_dir=data_dir and os.path.expanduser(data_dir), file_format="array_record"
        )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Text from local files.",
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            disable_shuffling=True,  # the order of the files is kept
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(source) for split, source in self.splits.items()}

    def _generate_examples(self, source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (name, text) in enumerate(documents(source)):
            yield i, {"name": name, "text": text}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hlm.data.local_text", description="Make a TFDS data set from local text."
    )
    parser.add_argument("name", help="of the data set: lower-case letters, digits and _")
    parser.add_argument("paths", nargs="+", help="text files, folders or globs; or .jsonl files")
    parser.add_argument("--data-dir", required=True, help="folder to write to")
    parser.add_argument("--split", default="train", help="name of the split (default: train)")
    parser.add_argument(
        "--separator",
        help=r"text between the documents of a file, such as '\n\n'; default: a file is a document",
    )
    parser.add_argument("--field", help="read JSON lines, and take this field")
    parser.add_argument(
        "--any-bytes",
        action="store_true",
        help="take text files as they are, even if they seem to be no text",
    )
    given = parser.parse_args(arguments)
    if given.field is not None and (given.separator is not None or given.any_bytes):
        parser.error(
            "--separator and --any-bytes are for text files and --field for JSON lines; give "
            "one of them"
        )
    # \\n is a newline
    separator = given.separator and given.separator.encode("latin-1", "backslashreplace").decode(
        "unicode_escape"
    )
    paths = tuple(given.paths)
    try:
        text = TextFiles(paths, separator, any_bytes=given.any_bytes)
        source = text if given.field is None else JsonLines(paths, given.field)
        builder = LocalText(given.name, {given.split: source}, given.data_dir)
        if builder.is_prepared():
            parser.error(
                f"{builder.data_path} exists already; choose another name or folder, or remove it"
            )
        source.open()  # what is wrong with the files is said before anything is written
        builder.download_and_prepare()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{builder.info.splits[given.split].num_examples} documents in {builder.data_path}")


if __name__ == "__main__":
    main()
