"""What a user should know although nothing failed: one line on stderr, whatever a bundle's ``logging.conf`` says."""

from __future__ import annotations

import sys
from functools import cache


@cache
def notice(sentence: str) -> None:
    """Print ``warning: <sentence>`` to stderr, once in a process: a training reads the same file every epoch."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
