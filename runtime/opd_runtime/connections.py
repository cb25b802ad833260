"""Pools of HTTP connections that notice a vanished peer. Knows no server and no request."""

import socket
from typing import Any

import aiohttp

IDLE_SECONDS, PROBE_SECONDS, PROBES = 30, 10, 3
SILENCE_SECONDS = IDLE_SECONDS + PROBE_SECONDS * PROBES
"""A peer whose kernel says nothing for so long is gone: a busy server's answers for it, however long it works."""


def connector() -> aiohttp.TCPConnector:
    """Any number of connections; a node that is lost without a word breaks them after SILENCE_SECONDS."""
    return aiohttp.TCPConnector(limit=0, socket_factory=_watched_socket)


def _watched_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    # Keepalive is silent while sent bytes wait for their acknowledgement, for a quarter of an hour by default.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE_SECONDS)
    return made
