"""One namespace of a test cluster, and what a test asks of it. Waits for nothing by itself."""

import json
from dataclasses import dataclass
from typing import Any

from cluster import Cluster


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
