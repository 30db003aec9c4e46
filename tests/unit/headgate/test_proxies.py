"""Proxies in the environment, which no request to this machine goes through."""

from __future__ import annotations

import sys

import httpx
import pytest
from support.small_server import answering

from headgate import cli, doctor
from headgate.errors import BadInputError
from headgate.home import Home
from headgate.proxies import CERTIFICATES, ask_loopback_directly, past_proxies, require_usable

NOWHERE = "http://127.0.0.1:9"
ALL = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(("env", "added"), [
    ({}, None),
    ({"NO_PROXY": "acme.com"}, None),
    ({"HTTP_PROXY": NOWHERE}, ALL),
    ({"all_proxy": NOWHERE}, ALL),
    ({"https_proxy": NOWHERE, "NO_PROXY": "acme.com, 10.0.0.0/8"}, f"acme.com,10.0.0.0/8,{ALL}"),
    ({"http_proxy": NOWHERE, "NO_PROXY": "a.com", "no_proxy": "b.com,127.0.0.1"}, f"a.com,b.com,{ALL}"),
    ({"http_proxy": NOWHERE, "no_proxy": "*"}, None),
])  # fmt: skip
def test_loopback_is_added_to_what_is_asked_directly(env, added):
    assert past_proxies(env) == ({} if added is None else {"NO_PROXY": added, "no_proxy": added})


@pytest.mark.parametrize("proxy", [NOWHERE, "socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "127.0.0.1:9"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_libraries_then_reach_this_machine(monkeypatch, variable, proxy):
    for name in (variable, variable.lower()):
        monkeypatch.setenv(name, proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "acme.com")
    require_usable({variable: proxy})
    with answering(lambda _: (200, b"here")) as url:
        with pytest.raises(httpx.TransportError):
            httpx.get(url)
        ask_loopback_directly()
        assert httpx.get(url).text == "here"


@pytest.fixture
def no_certificates(monkeypatch):
    for name in CERTIFICATES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("variable", "value", "says"), [
    ("ALL_PROXY", "ftp://ann:s3cret@127.0.0.1:9", "ftp://127.0.0.1:9 names a scheme that is not known"),
    ("https_proxy", "http://ann:s3cret@[::1", "http://[::1 is no address"),
    ("SSL_CERT_FILE", "{folder}/none.pem", "none.pem does not exist"),
    ("SSL_CERT_FILE", "{folder}/empty.pem", "empty.pem has no certificates that can be read"),
    ("SSL_CERT_FILE", "{folder}", "has no certificates that can be read: Is a directory"),
])  # fmt: skip
@pytest.mark.usefixtures("no_certificates")
def test_what_no_request_can_be_made_with_is_refused_by_name(monkeypatch, tmp_path, capsys, variable, value, says):
    (tmp_path / "empty.pem").write_text("no certificate\n")
    value = value.format(folder=tmp_path)
    with pytest.raises(BadInputError, match=f"^{variable}: ") as raised:
        require_usable({variable: value})
    assert says in raised.value.message
    assert raised.value.fix.startswith(f"set {variable} to ")
    # A command that makes requests does not begin; doctor goes on without the variable.
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["headgate", "status"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert "s3cret" not in said
    found = {one.subject: one for one in doctor.examine(Home(tmp_path / "home"))}
    assert (found[variable].severity, found[variable].fix) == ("error", raised.value.fix)


@pytest.mark.usefixtures("no_certificates")
def test_certificates_of_requests_alone_keep_no_command_from_this_machine(tmp_path):
    require_usable({"REQUESTS_CA_BUNDLE": str(tmp_path / "none.pem"), "SSL_CERT_DIR": str(tmp_path / "none")})


@pytest.mark.usefixtures("no_certificates")
def test_doctor_tells_of_proxies_and_certificates_without_their_passwords(monkeypatch, tmp_path):
    assert list(doctor._network()) == []
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:s3cret@proxy.acme.com:3128")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'none'}:{tmp_path}")
    found = {one.subject: (one.severity, one.problem) for one in doctor._network()}
    assert found["proxies"] == ("ok", "HTTPS_PROXY=http://proxy.acme.com:3128; requests to this machine go past them")
    assert found["SSL_CERT_FILE"] == ("error", f"{tmp_path / 'none.pem'} does not exist")
    assert [found[name][0] for name in CERTIFICATES[1:]] == ["ok", "ok", "error"]
