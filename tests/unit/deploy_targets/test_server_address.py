"""Addresses of servers: as they are noted with a cluster, as text, and as Envoy takes them."""

from __future__ import annotations

import pytest

from deploy_targets.server_address import ServerAddress

ADDRESSES = [ServerAddress(port=24001), ServerAddress(socket="/h/sockets/0a.sock")]


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_written_is_read_back(address):
    assert ServerAddress.of(str(address)) == address
    assert ServerAddress.noted_in(address.noted()) == address


def test_nothing_is_read_as_nothing():
    assert ServerAddress.of("") is None


def test_what_an_earlier_version_noted_is_a_port():
    stored = {"endpoint": "wine", "revision": "v1-a", "port": 24001}
    assert ServerAddress.noted_in(stored) == ServerAddress(port=24001)
    # The same again, so that Envoy's file does not change and no cluster is made anew.
    assert ServerAddress(port=24001).noted() == {"port": 24001}


def test_envoy_is_told_a_port_or_a_pipe():
    told = [
        address.hosts("wine--v1")["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        for address in ADDRESSES
    ]
    assert told == [
        {"socket_address": {"address": "127.0.0.1", "port_value": 24001}},
        {"pipe": {"path": "/h/sockets/0a.sock"}},
    ]
