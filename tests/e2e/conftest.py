"""Tests on real clouds cost money, and are collected only where HEADGATE_E2E names one."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("HEADGATE_E2E") else ["test_real_clouds.py"]
