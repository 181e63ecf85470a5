"""python -m tests.e2e.run_notebooks FOLDER NOTEBOOK...: each from top to bottom in FOLDER, with
`QUICK = True`, in one kernel, which forgets all names between two of them.
"""

import pathlib
import sys

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FORGET = "get_ipython().run_line_magic('reset', '-f')\n"


def quick(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook, set to what it calls quick."""
    book = nbformat.read(path, as_version=4)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    assert first.source.count("QUICK = False") == 1, f"{path} has no QUICK = False"
    first.source = FORGET + first.source.replace("QUICK = False", "QUICK = True")
    return book


def main(folder: str, *paths: str) -> None:
    manager = AsyncKernelManager(kernel_name="python3")
    for path in paths:
        options = dict(resources={"metadata": {"path": folder}}, timeout=600)
        client = NotebookClient(quick(pathlib.Path(path)), manager, **options)
        client.execute(reset_kc=False, cleanup_kc=path == paths[-1])
        print(f"{path} runs", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
