"""What the server of forks imports first, and nothing else does."""

from __future__ import annotations

import signal
import warnings

# Ctrl-C is for its parent, which decides what happens to it.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# Those of potentials, as they are imported, are for nobody.
warnings.simplefilter("ignore")
