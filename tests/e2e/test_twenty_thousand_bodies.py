"""The long run of tests/unit/headgate_server/test_every_body.py: ten times as many bodies, in parts of a minute."""

from __future__ import annotations

import pytest
from support.models import ASKED
from support.same_answers import check

pytestmark = pytest.mark.filterwarnings("ignore")
BODIES = 20_000


@pytest.mark.parametrize("kind", ASKED)
def test_the_server_says_what_mlflows_says(models, kind):
    check(models, kind, BODIES // len(ASKED))
