"""Connections to this machine itself, which are no network: kat looks whether the head of a cluster is there."""

import socket

import pytest

_REAL = {name: getattr(socket, name) for name in ("getaddrinfo", "create_connection")}
_CONNECT = socket.socket.connect


@pytest.fixture(scope="module", autouse=True)
def _loopback():
    refused = {name: getattr(socket, name) for name in _REAL}
    refused_connect = socket.socket.connect

    def connect(self, address):
        return (_CONNECT if address[0] == "127.0.0.1" else refused_connect)(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        for name in _REAL:
            patch.setattr(socket, name, lambda *given, _name=name, **named: _of(_name, refused, given)(*given, **named))
        yield


def _of(name, refused, given):
    host = given[0][0] if name == "create_connection" else given[0]
    return (_REAL if host == "127.0.0.1" else refused)[name]
