"""Which variables of the environment foreign code inherits: a model's server, and what is built of its requirements.

Everything else stays with Headgate, such as the credentials of a cloud in the shell that ran `headgate up`. Names are
given as patterns of fnmatch.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERVER = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "OMP_*", "OPENBLAS_NUM_THREADS", "MKL_*", "NUMEXPR_*", "VECLIB_MAXIMUM_THREADS", "KMP_*",
    "CUDA_*", "NVIDIA_*", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    # Where the server sends its traces: docs/metrics.md.
    "OTEL_*",
    # How many workers a server has, and in how much memory: docs/operating.md.
    "HEADGATE_SERVER_*",
)  # fmt: skip
"""A server gets `runtime.env` beside these."""
BUILD = (
    *SERVER, "UV_*", "PIP_*", "NETRC", "XDG_*", "*_PROXY", "*_proxy",
    "CC", "CXX", "*FLAGS", "CMAKE_*", "RUSTUP_*", "CARGO_*", "SETUPTOOLS_*", "SOURCE_DATE_EPOCH",
)  # fmt: skip
"""uv needs the user of an index, which it takes from these; a package that is built here can read them too."""
MORE = "HEADGATE_BUILD_ENV"
"""Names that builds inherit too, separated by commas."""


def only(patterns: Sequence[str], env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that match one of the patterns."""
    return {name: value for name, value in env.items() if any(fnmatchcase(name, one) for one in patterns)}


def for_builds() -> dict[str, str]:
    """Return what uv, and what it builds, inherits."""
    more = [name.strip() for name in os.environ.get(MORE, "").split(",")]
    return only((*BUILD, *filter(None, more)))
