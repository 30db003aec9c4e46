"""Print the value of a Secret block of Prefect: `python -P -m tasks.secret_block secret/NAME`.

`headgate.references` runs it where a server with such a secret starts, and reads its output by a pipe. Exit codes: 0
with the value on stdout, 3 where there is no such block, 1 where Prefect did not answer for two minutes: after
`headgate up` its server starts beside the servers of models.
"""

from __future__ import annotations

import os
import sys

import httpx
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from headgate.references import NO_BLOCK

_SECONDS, _AGAIN_SECONDS = 120.0, 1.0


def main(name: str) -> int:
    """Print the value; returns the exit code."""
    if not os.environ.get("PREFECT_API_URL"):
        # Prefect's client would start a server of its own, which has no blocks.
        sys.stderr.write("PREFECT_API_URL is not set\n")
        return 1
    asking = Retrying(
        retry=retry_if_exception_type((httpx.HTTPError, OSError)), stop=stop_after_delay(_SECONDS),
        wait=wait_fixed(_AGAIN_SECONDS), reraise=True,
    )  # fmt: skip
    try:
        block = asking(Block.load, name)
    except ValueError:
        return NO_BLOCK
    except (httpx.HTTPError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}\n")
        return 1
    value = block.get() if isinstance(block, Secret) else None
    if not isinstance(value, str):
        return NO_BLOCK
    sys.stdout.buffer.write(value.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
