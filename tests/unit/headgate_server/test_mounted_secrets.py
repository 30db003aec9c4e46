from __future__ import annotations

import pytest

from deploy_targets.docker import mounted_secrets as mounting
from headgate_server import mounted_secrets


def test_each_file_becomes_the_variable_of_its_name(tmp_path):
    (tmp_path / "A").write_text("one\n")
    (tmp_path / "B").write_text("zwei ä")
    (tmp_path / "C").write_text("not named")
    environ = {"HEADGATE_SECRETS": "A,B"}
    mounted_secrets.into(environ, tmp_path)
    assert environ == {"HEADGATE_SECRETS": "A,B", "A": "one\n", "B": "zwei ä"}


def test_a_server_without_secrets_reads_nothing(tmp_path):
    environ: dict[str, str] = {}
    mounted_secrets.into(environ, tmp_path / "missing")
    assert environ == {}


def test_a_server_whose_secret_is_missing_ends_and_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        mounted_secrets.into({"HEADGATE_SECRETS": "A"}, tmp_path)
    assert ended.value.code == mounted_secrets.LOAD_FAILED
    assert "the secret A cannot be read (No such file or directory)" in capsys.readouterr().err


def test_both_sides_mean_the_same_place():
    assert (str(mounted_secrets.FOLDER), mounted_secrets.NAMES) == (mounting.FOLDER, mounting.NAMES)
