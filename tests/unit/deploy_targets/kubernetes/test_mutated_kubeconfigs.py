"""Kubeconfigs with faults: an answer, or a clear error; the long run is in `make hostile`."""

from __future__ import annotations

import json

import pytest
from support.api_server import kubeconfig
from support.mutated_kubeconfig import check

from deploy_targets.kubernetes.api import Api
from headgate.errors import TargetError

FILES = 400


def test_each_leads_to_an_answer_or_a_clear_error_and_runs_no_program_that_kubectl_would_not(tmp_path):
    found = check(range(FILES), tmp_path)
    assert found.wrong == []
    assert found.answered > FILES // 30
    assert found.refused > FILES // 2


@pytest.mark.parametrize(("entry", "value", "said"), [
    ("server", "file:///etc/passwd", "no address that begins with https://"),
    ("server", "http://user:secret@127.0.0.1:1", "users are entries of their own"),
    ("server", 7, "server of its cluster is int, and no text"),
    ("certificate-authority-data", "no base64!", "the kubeconfig"),
])  # fmt: skip
def test_a_cluster_that_cannot_be_meant_is_named(tmp_path, monkeypatch, entry, value, said):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, 1, "https", **{entry: value})))
    with pytest.raises(TargetError, match=said) as raised:
        Api("", "default").find("configmaps", "x")
    assert "secret" not in str(raised.value)


def test_cmd_path_of_an_auth_provider_is_not_run(tmp_path, monkeypatch):
    file, mark = kubeconfig(tmp_path, 1), tmp_path / "mark"
    content = json.loads(file.read_text())
    content["users"][0]["user"] = {
        "auth-provider": {"name": "gcp", "config": {"cmd-path": "touch", "cmd-args": str(mark)}}
    }
    file.write_text(json.dumps(content))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(TargetError, match="cmd-path of an auth-provider"):
        Api("", "default").find("configmaps", "x")
    assert not mark.exists()
