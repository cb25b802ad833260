"""A cluster's DNS for processes that have this folder in PYTHONPATH: names of Services, from the JSON file $FAKE_HOSTS.

Looked up at every question, as a Service's ready addresses change.
"""

import json
import os
import socket
from typing import Any

_ask = socket.getaddrinfo


def getaddrinfo(host: Any, port: Any, *arguments: Any, **named: Any) -> list[Any]:
    if not (isinstance(host, str) and host.endswith(".svc")):
        return _ask(host, port, *arguments, **named)
    with open(os.environ["FAKE_HOSTS"]) as file:
        addresses = json.load(file).get(host, [])
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [found for address in addresses for found in _ask(address, port, *arguments, **named)]


socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
