"""What this installation requires, and what `doctor` says where that is not met."""

from __future__ import annotations

from importlib import metadata

import pytest

from headgate import doctor
from headgate.installation import DISTRIBUTION, install_command, requirements


def test_a_missing_extra_is_installed_by_the_names_of_its_packages():
    assert install_command("sagemaker") == "pip install 'boto3>=1.35'"
    assert install_command("postgresql") == "pip install 'psycopg[binary]>=3.2'"
    # The target of another distribution.
    assert install_command("acme", missing="acme_sdk") == "pip install acme_sdk"


def test_an_extra_has_its_own_packages_only():
    needed = {one.name for one in requirements()}
    assert {"prefect", "mlflow", "sqlalchemy"} <= needed
    assert "boto3" not in needed
    assert {one.name for one in requirements("dask")} == {"prefect-dask"}


def test_doctor_finds_versions_outside_the_ranges(monkeypatch):
    """SQLAlchemy 2.1 installs beside Prefect 3.8, whose scheduler then fails."""
    other = {"sqlalchemy": "2.1.9", "apprise": None}

    def version(name):
        if name in other and other[name] is None:
            raise metadata.PackageNotFoundError(name)
        return other.get(name) or metadata.version(name)

    assert [finding.severity for finding in doctor._packages()] == ["ok"]
    monkeypatch.setattr(doctor, "version", version)
    found = {finding.subject: finding for finding in doctor._packages()}
    assert set(found) == {"sqlalchemy", "apprise"}
    assert found["sqlalchemy"].problem == "2.1.9: Prefect 3.8's scheduler fails with it, so no schedule runs"
    assert found["sqlalchemy"].fix == "pip install 'sqlalchemy<2.1,>=2.0.36'"
    assert found["apprise"].problem == "is not installed"


def test_the_distribution_is_ours():
    assert metadata.metadata(DISTRIBUTION)["Name"] == "headgate-ml"
    scripts = metadata.distribution(DISTRIBUTION).entry_points.select(group="console_scripts")
    assert [script.name for script in scripts] == ["headgate"]
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.metadata("headgate")
