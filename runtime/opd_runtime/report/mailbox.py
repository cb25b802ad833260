"""The job's mailbox in Kubernetes, a ConfigMap: leaves `progress.json` there and finds `request.json`.

One PATCH does both, because its answer is the whole ConfigMap. A thread sends the newest report, at most every five
seconds; what was reported in between travels with it. No trouble with the API server ever reaches training: a report
that could not be left is left later. Knows no Ray and no step.
"""

import os
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from opd_api.documents import (
    REPORT_INTERVAL_SECONDS,
    DocumentError,
    Progress,
    Request,
    parse_progress,
    parse_request,
)
from opd_api.names import PROGRESS_KEY, REQUEST_KEY, mailbox

from ..errors import UserError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token and the cluster's certificate authority; the token is renewed there."""
FIELD_MANAGER = "opd-runtime"
REQUEST_TIMEOUT_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
LAST_REPORT_SECONDS = 60.0
"""How long the end of a run waits for its last report to get through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """What lies in the mailbox."""

    progress: Progress | None
    request: Request | None


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class MailboxUnavailable(Exception):
    """Not now; in words."""


class Mailbox:
    """`put` from any thread, at any time; `close` waits for the last report."""

    def __init__(
        self,
        url: str,
        *,
        attempt: int,
        service_account: Path = SERVICE_ACCOUNT,
        say: Callable[[str], None] = _to_stderr,
        interval_seconds: float = REPORT_INTERVAL_SECONDS,
    ) -> None:
        """`url` is the ConfigMap's; `say` takes a line about trouble, and about its end."""
        self.url, self.attempt, self.service_account = url, attempt, service_account
        self.interval_seconds, self._say = interval_seconds, say
        self.stop_requested = threading.Event()
        """Set once the operator has asked this attempt to stop."""
        self._on_stop: Callable[[], object] = lambda: None
        self._http: httpx.Client | None = None
        self._trouble = ""
        self._changed = threading.Condition()
        self._newest: Progress | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._deliver, name="mailbox", daemon=True)
        self._thread.start()

    def put(self, report: Progress) -> None:
        """Leaves the report soon. Returns at once."""
        with self._changed:
            self._newest = report
            self._changed.notify_all()

    def on_stop(self, act: Callable[[], object]) -> None:
        """`act` is called, in another thread, when a stop is asked for; at once when it has been already."""
        self._on_stop = act
        if self.stop_requested.is_set():
            act()

    def read(self) -> Letters:
        """What lies there now; nothing when the API server cannot be asked."""
        try:
            data = self._exchange("GET")
        except MailboxUnavailable as error:
            self._tell(str(error))
            data = {}
        progress = parse_progress(data.get(PROGRESS_KEY, "").encode())
        return Letters(progress=None if isinstance(progress, DocumentError) else progress, request=self._find(data))

    def close(self, timeout_seconds: float = LAST_REPORT_SECONDS) -> None:
        """Returns when the newest report has been left, or could not be for so long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    # ------------------------------------------------------------ the thread
    def _deliver(self) -> None:
        left, pause = None, FIRST_BACKOFF_SECONDS
        while (report := self._other_than(left)) is not None:
            try:
                self._find(self._exchange("PATCH", {"data": {PROGRESS_KEY: report.model_dump_json(exclude_none=True)}}))
            except MailboxUnavailable as error:
                self._tell(str(error))
                # Also at the end, when `_pause` would not: nobody hammers a server that is down.
                time.sleep(FIRST_BACKOFF_SECONDS)
                self._pause(pause)
                pause = min(2 * pause, LONGEST_BACKOFF_SECONDS)
            else:
                self._tell("")
                left, pause = report, FIRST_BACKOFF_SECONDS
                self._pause(self.interval_seconds)

    def _other_than(self, left: Progress | None) -> Progress | None:
        """The newest report once it is not `left`; None when there will be no other."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not left or self._closing)
            return self._newest if self._newest is not left else None

    def _pause(self, seconds: float) -> None:
        """The rest between two reports, cut short by the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _find(self, data: dict[str, str]) -> Request | None:
        """The request in the mailbox; a stop of this attempt is passed on."""
        if not (said := data.get(REQUEST_KEY)):
            return None
        request = parse_request(said.encode())
        if isinstance(request, DocumentError):
            self._tell(f"{REQUEST_KEY} cannot be used: {request.message}")
            return None
        if request.stop and request.attempt == self.attempt and not self.stop_requested.is_set():
            self.stop_requested.set()
            self._on_stop()
        return request

    # ------------------------------------------------------------ HTTP
    def _exchange(self, method: str, body: dict[str, Any] | None = None) -> dict[str, str]:
        """The ConfigMap's data after the request. Raises MailboxUnavailable for whatever goes wrong."""
        try:
            # Read every time: the kubelet renews it about once an hour.
            token = (self.service_account / "token").read_text().strip()
            if self._http is None:
                self._http = self._connect()
            reply = self._http.request(
                method,
                self.url,
                params={"fieldManager": FIELD_MANAGER} if body else None,
                json=body,
                headers={
                    "Authorization": f"Bearer {token}",
                    **({"Content-Type": "application/merge-patch+json"} if body else {}),
                },
            )
            if reply.is_success:
                return reply.json().get("data") or {}
            said = f"{reply.status_code}: {reply.text[:300]}"
        except (httpx.HTTPError, OSError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            self._http = None  # the next try reads the certificate authority anew
        raise MailboxUnavailable(f"the job's mailbox at {self.url} cannot be used ({said})")

    def _connect(self) -> httpx.Client:
        # No proxy: what the environment names is for the hub.
        return httpx.Client(
            verify=ssl.create_default_context(cafile=str(self.service_account / "ca.crt")),
            timeout=REQUEST_TIMEOUT_SECONDS,
            trust_env=False,
        )

    def _tell(self, trouble: str) -> None:
        """Each trouble once, and once that it is over."""
        if trouble != self._trouble:
            self._say(f"{trouble}; training goes on" if trouble else "the job's mailbox can be used again")
        self._trouble = trouble


def mailbox_url(namespace: str, job: str) -> str:
    """Of the job's ConfigMap, by the address that every pod is given. Raises UserError outside of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise UserError(
            "KUBERNETES_SERVICE_HOST is not set: this is no pod",
            hint="`opd train` runs in a job's Ray cluster; `opd run FILE` runs a job on this machine",
        )
    host = f"[{host}]" if ":" in host else host
    return f"https://{host}:{port}/api/v1/namespaces/{namespace}/configmaps/{mailbox(job)}"
