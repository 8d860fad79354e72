"""Run the notebooks and write them as pages, pictures beside them: python docs/scripts/notebooks.py [NAME ...]

docs/notebooks/NAME.ipynb (kept without outputs) -> NAME.md, NAME-1.png, ...
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tost.files import atomic_write

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def executed(path: Path, timeout: int = 300) -> Any:
    """The notebook with its outputs; raises nbclient's CellExecutionError where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, kernel_name="python3").execute()
    return notebook


def page(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of an executed notebook, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            if len(parts) == 1:
                parts.append(f"*This page is a notebook: `docs/notebooks/{name}.ipynb`.*")
            continue
        parts.append(f"```py\n{cell.source}\n```")
        said = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        if said:
            parts.append(f"```text\n{said.rstrip()}\n```")
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                picture = f"{name}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(output.data["image/png"])
                parts.append(f"![What the cell above draws]({picture})")
    return "\n\n".join(parts) + "\n", pictures


def main() -> None:
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        text, pictures = page(executed(FOLDER / f"{name}.ipynb"), name)
        for left in FOLDER.glob(f"{name}-*.png"):
            left.unlink()
        for picture, data in pictures.items():
            with atomic_write(FOLDER / picture) as file:
                file.write(data)
        with atomic_write(FOLDER / f"{name}.md", "w") as file:
            file.write(text)
        print(f"{name}.md, {len(pictures)} pictures")


if __name__ == "__main__":
    main()
