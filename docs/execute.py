"""Execute a notebook in an empty folder and keep its outputs: `python docs/execute.py docs/notebook.ipynb`."""

import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

if __name__ == "__main__":
    path = Path(sys.argv[1])
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, record_timing=False, resources=resources).execute()
    notebook.metadata.pop("language_info", None)  # it has the version of Python
    nbformat.write(notebook, path)
