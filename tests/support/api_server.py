"""A little API server over TLS with one ConfigMap in it: what a trainer's mailbox talks to. Knows no other kind."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from opd_api.documents import Progress, Request, parse_progress
from opd_api.names import PROGRESS_KEY, REQUEST_KEY, mailbox


@dataclass
class ApiServer:
    """`documents` are the reports as they came in. `status` other than 200 is what every request gets."""

    port: int
    path: str
    service_account: Path
    """A folder as the kubelet makes it: token and ca.crt."""
    data: dict[str, str] = field(default_factory=dict)
    documents: list[Progress] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    """Of the requests, in order."""
    status: int = 200
    accepted_token: str = "first-token"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}{self.path}"

    def ask_to_stop(self, attempt: int) -> None:
        request = Request(attempt=attempt, stop="Suspend", time="2026-01-02T03:04:05Z")
        self.data[REQUEST_KEY] = request.model_dump_json()

    def renew_token(self, token: str) -> None:
        self.accepted_token = token
        (self.service_account / "token").write_text(token)

    def answer(self, method: str, path: str, token: str, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
        self.tokens.append(token)
        if self.status != 200:
            return self.status, {"kind": "Status", "message": "not now"}
        if token != self.accepted_token:
            return 401, {"kind": "Status", "message": "Unauthorized"}
        if path.partition("?")[0] != self.path:
            return 403, {"kind": "Status", "message": f"{path} is forbidden"}
        if method == "PATCH":
            assert content_type == "application/merge-patch+json"
            self.data |= json.loads(body)["data"]
            self.documents.append(parse_progress(self.data[PROGRESS_KEY].encode()))
        return 200, {"kind": "ConfigMap", "data": dict(self.data)} if self.data else {"kind": "ConfigMap"}


@contextmanager
def api_server(folder: Path, namespace: str, job: str) -> Iterator[ApiServer]:
    """Serves the mailbox of one job on a free port; certificate and token are in `folder`."""
    account = folder / "serviceaccount"
    account.mkdir(parents=True)
    (account / "token").write_text("first-token")
    certificate = _certificate(folder, account)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer = api.answer(self.command, self.path, token, self.headers.get("Content-Type", ""), body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = _do

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    path = f"/api/v1/namespaces/{namespace}/configmaps/{mailbox(job)}"
    api = ApiServer(server.server_address[1], path, account)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield api
    server.shutdown()
    server.server_close()
    thread.join()


def _certificate(folder: Path, account: Path) -> Path:
    """A self-signed one for 127.0.0.1, with its key; the certificate alone is the account's ca.crt."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM)
    (account / "ca.crt").write_bytes(text)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(private + text)
    return file
