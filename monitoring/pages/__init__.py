"""What people read: one self-contained HTML page of a release or of a monitor's check, and its main plot for chat."""

from monitoring.pages.release import Evidence, write_release
from monitoring.pages.window import Checked, write_check

__all__ = ["Checked", "Evidence", "write_check", "write_release"]
