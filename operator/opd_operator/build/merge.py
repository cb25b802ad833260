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
    if isinstance(base, dict) and isinstance(patch, dict):
        return _merge_objects(base, patch)
    if isinstance(base, list) and isinstance(patch, list):
        return _merge_lists(base, patch, field)
    return _without_directives(patch)


def _merge_objects(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get(_DIRECTIVE) == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    merged = {key: value for key, value in base.items() if patch.get(key, value) is not None}
    for key, value in patch.items():
        if value is not None and key != _DIRECTIVE:
            merged[key] = merge(base[key], value, key) if key in base else _without_directives(value)
    return merged


def _merge_lists(base: list[Any], patch: list[Any], field: str) -> list[Any]:
    items = [item for item in patch if _directive(item) != "replace" or len(item) > 1]
    if len(items) < len(patch):
        return items
    if field in _ADDED:
        return base + [item for item in items if item not in base]
    key = _MERGE_KEYS.get(field)
    if key is None or not all(isinstance(item, dict) and key in item for item in [*base, *items]):
        return [_without_directives(item) for item in items]
    found = {item[key]: item for item in base}
    for item in items:
        if _directive(item) == "delete":
            found.pop(item[key], None)
        elif item[key] in found and field not in _WHOLE:
            found[item[key]] = merge(found[item[key]], item)
        else:
            found[item[key]] = _without_directives(item)
    return list(found.values())


def _directive(item: Any) -> Any:
    return item.get(_DIRECTIVE) if isinstance(item, dict) else None


def _without_directives(value: Any) -> Any:
    """Nothing to merge with: directives and nulls, which only take out, say nothing."""
    if isinstance(value, dict):
        return {k: _without_directives(v) for k, v in value.items() if k != _DIRECTIVE and v is not None}
    if isinstance(value, list):
        return [_without_directives(item) for item in value if _directive(item) != "delete"]
    return value
