"""A process that refreshes a folder and dies, or runs out of space, at a place that is chosen from outside.

Run as `python -m tests.crash PLACE AT LIMIT`: it exits 9 at the AT-th touch of the file system, or 0 when it got through;
LIMIT bounds the bytes of a file (0: none), and exit 12 says that this was met as it should be.
"""

import os
import resource
import sys
from pathlib import Path

from errors import NoSpace
from tests.folder import Folder

TOUCHES = (
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "shutil.rmtree",
    "shutil.copyfile",
    "os.truncate",
    "sqlite3.connect",
)
KILLED = 9


def main(place: str, at: int, limit: int) -> int:
    folder = Folder(Path(place), prune_limit=1.0)
    touched = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touched
        if event in TOUCHES and str(folder.settings.index) in str(arguments[0]):
            touched += 1
            if touched == at:
                os._exit(KILLED)

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    elif at:
        sys.addaudithook(count)
    try:
        folder.refresh()
    except NoSpace:
        return NoSpace.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
