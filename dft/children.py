"""Programs that we start, and their end."""

from __future__ import annotations

import shutil


def ending_with_us() -> list[str]:
    """What stands before a command that is to get SIGTERM when we are gone, even killed outright.

    Nothing, where util-linux is not there.
    """
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
