"""One namespace of a test cluster, and what a test asks of it. Waits for nothing by itself."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster import Cluster

TEST_LABEL = "opd.dev/test"


@dataclass(frozen=True, slots=True)
class Namespace:
    """Everything here happens in `name`, as the administrator."""

    cluster: Cluster
    name: str

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What it prints. Raises KubectlFailed."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """`kubectl get` as data."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, document: Any, *arguments: str) -> str:
        """Server-side, unknown fields refused. `document` is plain data or YAML."""
        text = document if isinstance(document, str) else json.dumps(document)
        return self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", *arguments, stdin=text)


@contextmanager
def new_namespace(cluster: Cluster, words: str) -> Iterator[Namespace]:
    """A fresh one named after `words`; deleted afterwards, which nobody waits for here."""
    prefix = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:50].strip("-")
    metadata = {"generateName": f"{prefix}-", "labels": {TEST_LABEL: ""}}
    document = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    name = cluster.kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=document)
    cluster.kubectl("wait", "--for=create", "--namespace", name, "serviceaccount/default", "--timeout=60s")
    yield Namespace(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")
