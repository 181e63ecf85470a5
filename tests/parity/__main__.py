"""python -m tests.parity DIR [NAME ...]: every case of DIR (or those named) against our models, as
a table.

Exits 1 if a comparison fails, a case cannot be run or has no handler.
"""

import pathlib
import sys

from rich.console import Console
from rich.table import Table

import tests.conftest  # noqa: F401  (a CPU, since accelerators round float32 away, and quick compiling)
from tests.parity.common import cases, checks, read

WIDTH = 180  # columns of the table where it does not go to a terminal


def main(folder: pathlib.Path, only: tuple[str, ...]) -> int:
    names = [name for name in cases(folder) if not only or name in only]
    if missing := [name for name in only if name not in names] or ([] if names else ["NAME"]):
        print(f"{folder} has no {', '.join(f'{name}.npz' for name in missing)}", file=sys.stderr)
        return 1
    table = Table("case", "quantity", "largest difference", "tolerance", "ok", "note")
    failed = 0
    for name in names:
        print(f"{name} ... ", end="", file=sys.stderr, flush=True)
        before = failed
        try:
            for check in checks(name, *read(folder, name)):
                ok = "yes" if check.ok else "[red]NO[/]"
                table.add_row(
                    name,
                    check.quantity,
                    f"{check.difference:.2g}",
                    f"{check.tolerance:g}",
                    ok,
                    check.note,
                )
                failed += not check.ok
        except Exception as error:  # one broken case must not hide the others
            table.add_row(name, type(error).__name__, "", "", "[red]NO[/]", str(error))
            failed += 1
        print("ok" if failed == before else "FAILED", file=sys.stderr, flush=True)
        table.add_section()
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)
    print(f"{len(names)} cases, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2 or not pathlib.Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]), tuple(sys.argv[2:])))
