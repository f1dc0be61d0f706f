"""The first step of a submitted job: `python -m posttrain.cluster.job_files FOLDER`

Copies what Ray unpacked for the job (the current folder: the pipeline and its files) into the run
folder, which all nodes see. Ray's own copies lie at other paths on other nodes, and go away with
the job; the run is to be gone on with later. Imports no ray.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def bring(source: Path, target: Path) -> None:
    """Copy a folder. `target` is there only whole; named after its content, it may be there."""
    if target.is_dir():
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(source, partial)
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)
        if not target.is_dir():  # else another job brought the same meanwhile
            raise


if __name__ == "__main__":
    bring(Path.cwd(), Path(sys.argv[1]))
