"""Events about an OPDJob, as `kubectl describe` shows them. Sends none."""

import hashlib
import socket
from datetime import UTC, datetime

from opd_api.names import API_VERSION, KIND

from ..objects import EventNote
from ..observed import Observed
from .api import Body

COMPONENT = "opd-operator"


def event_of(observed: Observed, note: EventNote, now: datetime) -> Body:
    """Its name follows from the job, the reason and the token: sent again, the API server has it already."""
    occurrence = "\n".join((observed.uid, note.reason, note.token))
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{observed.name}.{hashlib.sha256(occurrence.encode()).hexdigest()[:16]}",
            "namespace": observed.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": observed.namespace,
            "name": observed.name,
            "uid": observed.uid,
        },
        "type": note.type,
        "reason": note.reason,
        "message": note.message,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": socket.gethostname(),
    }
