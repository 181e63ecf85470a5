"""Continue a text in the terminal: python -m hlm.generate CHECKPOINT --prompt "Call me "

The text appears while it is made. With --color it is shown again, with the surprise of each
character and the model's chunks below (hlm/look).
"""

import argparse
import codecs
import sys
import time
from collections.abc import Sequence

import rich

import hlm.host  # noqa: F401  (first: it sets up memory allocation)
from hlm.fim import Infill
from hlm.infer.api import load
from hlm.train.stop import as_program

ENDED = {
    "eos": "the document ended",
    "stop": "a text to stop at came",
    "length": "the most bytes are reached",
    "full": "the context is full: some layer remembers no more; give a shorter prompt",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hlm.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", help="workdir of a run, workdir@step, or a folder of hlm.export")
    add(
        "--prompt",
        default="",
        help="the text to continue; `-` reads it from standard input; default: none",
    )
    add("--suffix", help="a text that is to follow what is made (for models with codec=FIMCodec)")
    add("--max-bytes", type=int, default=200, help="default: %(default)s")
    add(
        "--temperature",
        type=float,
        default=0.7,
        help="0 takes the likeliest byte each time; default: %(default)s",
    )
    add(
        "--top-p",
        type=float,
        default=1.0,
        help="of the likeliest bytes with this share; default: all",
    )
    add("--top-k", type=int, help="of so many likeliest bytes; default: all")
    add(
        "--stop",
        action="append",
        default=[],
        help="end before this text; may be given several times",
    )
    add("--seed", type=int, default=0)
    add("--color", action="store_true", help="show chunks and surprise afterwards")
    args = parser.parse_args(arguments)
    prompt = (
        sys.stdin.buffer.read()
        if args.prompt == "-"
        else args.prompt.encode(errors="surrogateescape")
    )
    suffix = (args.suffix or "").encode(errors="surrogateescape")
    asked = prompt if args.suffix is None else Infill(prompt, suffix)
    stops = [stop.encode(errors="surrogateescape") for stop in args.stop]
    how = (args.max_bytes, args.temperature, args.top_p, args.seed, args.top_k, stops)
    try:
        lm = load(args.checkpoint)
        stream, started = lm.stream(asked, *how), time.perf_counter()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    # A character that the prompt leaves open is in the first piece.
    sys.stdout.write(codecs.getincrementaldecoder("utf-8")("replace").decode(prompt))
    try:
        for piece in stream:
            sys.stdout.write(piece)
            sys.stdout.flush()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"\n{error}")
    print(suffix.decode(errors="replace"))
    print(
        f"{lm.stats.nbytes} bytes in {time.perf_counter() - started:.1f} s, compilation included; "
        f"{lm.stats.bytes_per_backbone_step:.2f} bytes per step of the backbone; "
        f"{ENDED[str(stream.ended)]}",
        file=sys.stderr,
    )
    if args.color:
        rich.print(lm.show(whole := prompt + stream.made + suffix, most=max(len(whole), 1)))


if __name__ == "__main__":
    as_program(main)
