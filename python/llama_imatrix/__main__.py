"""python -m llama_imatrix: runs the program that the wheel installed, with the same arguments."""

import os
import sys
import sysconfig
from pathlib import Path


def program():
    """Returns the path of the program: with this Python's scripts, or with the user's (pip install --user)."""
    schemes = [sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")]
    places = [Path(sysconfig.get_path("scripts", scheme)) / "llama-imatrix" for scheme in schemes]
    found = [place for place in places if place.is_file()]
    if not found:
        sys.exit(f"error: no llama-imatrix in {' or '.join(str(place.parent) for place in places)}\n"
                 "hint: pip install --force-reinstall llama-imatrix")
    return str(found[0])


if __name__ == "__main__":
    os.execv(program(), [program(), *sys.argv[1:]])
