"""`python -m tasks`: see tasks/cli/app.py."""

import sys
from io import TextIOWrapper

from tasks.cli.app import app

if __name__ == "__main__":
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name in a terminal's older encoding
    app()
