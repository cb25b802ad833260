"""Stands for an SGLang server in a test of NCCL: joins the group on GPU 1, receives buckets, answers what it got.

Speaks the six calls of a distributed weight update. GET /received answers {name: sum of the tensor's bytes}.
"""

import json
import sys
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=120)
groups: dict[str, Any] = {}
received: dict[str, int] = {}


def join(body: dict[str, Any]) -> None:
    """The store as SGLang's `init_custom_process_group` and torch prefix it."""
    store: dist.Store = dist.TCPStore(body["master_address"], body["master_port"], is_master=False, timeout=TIMEOUT)
    for prefix in (body["group_name"], f"{body['group_name']}/", "cuda/"):
        store = dist.PrefixStore(prefix, store)
    groups[body["group_name"]] = dist.ProcessGroupNCCL(
        store, body["rank_offset"], body["world_size"], dist.ProcessGroupNCCL.Options()
    )


def receive(body: dict[str, Any]) -> None:
    sizes = [prod(s) * getattr(torch, d).itemsize for s, d in zip(body["shapes"], body["dtypes"], strict=True)]
    flat = torch.empty(sum(sizes), dtype=torch.uint8, device="cuda:1")
    options = dist.BroadcastOptions()
    options.rootRank = 0
    groups[body["group_name"]].broadcast([flat], options).wait()
    for name, part in zip(body["names"], flat.split(sizes), strict=True):
        received[name] = int(part.sum(dtype=torch.int64))


CALLS = {"/init_weights_update_group": join, "/update_weights_from_distributed": receive}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        torch.cuda.set_device(1)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        CALLS.get(self.path, lambda _: None)(body)
        self._answer({"success": True})

    def do_GET(self) -> None:
        self._answer(received)

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    sys.stdout.close()
    server.serve_forever()
