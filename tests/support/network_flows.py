"""What Kubernetes lets in under NetworkPolicies: a model of their ingress rules, for networks that do not enforce them.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that no policy selects hears everybody;
one that is selected hears whom any rule of any policy lets in. Rules with ipBlock or endPort are refused here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

type Object = dict[str, Any]

NAMESPACE_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    labels: Mapping[str, str]


def is_allowed(policies: Iterable[Object], sender: Pod, receiver: Pod, port: int) -> bool:
    """Whether `receiver` hears `sender` on a TCP port."""
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == receiver.namespace
        and "Ingress" in policy["spec"]["policyTypes"]
        and _matches(policy["spec"]["podSelector"], receiver.labels)
    ]
    rules = [(policy, rule) for policy in selecting for rule in policy["spec"].get("ingress", ())]
    return not selecting or any(_lets_in(rule, policy, sender, port) for policy, rule in rules)


def _lets_in(rule: Object, policy: Object, sender: Pod, port: int) -> bool:
    ports = [_port(each) for each in rule.get("ports", ())]
    peers = rule.get("from", ())
    is_peer = not peers or any(_is_peer(peer, policy["metadata"]["namespace"], sender) for peer in peers)
    return is_peer and (not ports or port in ports)


def _is_peer(peer: Object, namespace: str, sender: Pod) -> bool:
    """A pod selector alone means pods of the policy's own namespace."""
    assert peer.keys() <= {"podSelector", "namespaceSelector"}, f"nobody evaluates {peer}"
    if "namespaceSelector" in peer:
        in_namespace = _matches(peer["namespaceSelector"], {NAMESPACE_NAME: sender.namespace})
    else:
        in_namespace = sender.namespace == namespace
    return in_namespace and _matches(peer.get("podSelector", {}), sender.labels)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}, f"nobody evaluates {selector}"
    same = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return same and all(_holds(each, labels) for each in selector.get("matchExpressions", ()))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    assert expression["operator"] == "In", f"nobody evaluates {expression}"
    return labels.get(expression["key"]) in expression["values"]


def _port(port: Object) -> int:
    assert port.keys() == {"protocol", "port"} and port["protocol"] == "TCP", f"nobody evaluates {port}"
    return int(port["port"])
