"""Print a greeting after a delay."""

import asyncio
import logging
import sys

from .greetings import greeting
from .text import printable

log = logging.getLogger(__name__)


async def main(name: str = "world", *, delay: float = 0.0) -> int:
    """Print a greeting after a delay.

    Args:
        name: Name of the person to greet.
        delay: Time before the greeting, in seconds.
    """
    if delay < 0:
        print(f"the delay must not be negative: {delay:g}", file=sys.stderr)
        return 1
    log.info("waiting for %g s", delay)
    await asyncio.sleep(delay)
    print(printable(greeting(name)))
    return 0
