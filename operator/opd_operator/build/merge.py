"""A user's podTemplate over ours, as Kubernetes' strategic merge patch does it for a PodTemplateSpec. Checks no field.

Objects merge key by key, null takes a key out, lists merge by the key that tells their items apart; a list without
such a key is replaced. Tolerations, envFrom and the like, which Kubernetes would replace, are added to ours: the user
asks for one more, and ours must stay. `$patch: replace` and `$patch: delete` say otherwise.

Merge keys: `patchMergeKey` in k8s.io/api/core/v1/types.go.
"""

from typing import Any

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
_WHOLE = {"env", "volumes", "resourceClaims"}
"""An item is one of several kinds (a value or a reference, a claim or an emptyDir): both together would be invalid."""
_ADDED = {"tolerations", "envFrom", "preferredDuringSchedulingIgnoredDuringExecution"}
_DIRECTIVE = "$patch"


def merge(base: Any, patch: Any, field: str = "") -> Any:
    """New objects only. What does not fit (a text where a list belongs) replaces: the API server says what is wrong."""
    if isinstance(base, dict) and isinstance(patch, dict) and _directive(patch) != "replace":
        return _merge_objects(base, patch)
    if isinstance(base, list) and isinstance(patch, list):
        return _merge_lists(base, patch, field)
    return _plain(patch)


def _merge_objects(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    taken_out = {key for key, value in patch.items() if value is None or _directive(value) == "delete"}
    merged = {key: value for key, value in base.items() if key not in taken_out}
    for key, value in patch.items():
        if key not in taken_out and key != _DIRECTIVE:
            merged[key] = merge(base[key], value, key) if key in base else _plain(value)
    return merged


def _merge_lists(base: list[Any], patch: list[Any], field: str) -> list[Any]:
    key, plain = _MERGE_KEYS.get(field, ""), [_plain(item) for item in patch if _directive(item) != "delete"]
    if any(_directive(item) == "replace" for item in patch):
        return [item for item in plain if item != {}]
    if field in _ADDED:
        return base + [item for item in plain if item not in base]
    if not all(isinstance(item, dict) and isinstance(item.get(key), str | int) for item in [*base, *patch]):
        return plain
    items = {item[key]: item for item in base}
    for item in patch:
        before = items.get(item[key])
        if _directive(item) == "delete":
            items.pop(item[key], None)
        else:
            items[item[key]] = _plain(item) if before is None or field in _WHOLE else merge(before, item)
    return list(items.values())


def _directive(value: Any) -> Any:
    return value.get(_DIRECTIVE) if isinstance(value, dict) else None


def _plain(value: Any) -> Any:
    """Where there is nothing to merge with: directives and nulls only take out, and are not sent to Kubernetes."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != _DIRECTIVE and v is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value if _directive(item) != "delete"]
    return value
