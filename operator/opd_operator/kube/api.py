"""HTTP to the API server: one request, or one stream of watch events. Knows no kind's content, keeps nothing.

Configuration, certificates and tokens are the client library's; bodies stay plain JSON, because models of every kind
would cost more memory than all that the operator remembers.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from opd_api.errors import OPDError

from ..objects import Kind

type Body = dict[str, Any]

REQUEST_SECONDS = 15.0
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 100.0
"""A watch says something every minute (bookmarks); one that is silent for so long is dead."""
UNTYPED = "failed to create typed patch object"
"""Begins what a server-side apply with an unknown field is answered, which calls itself an internal error."""
WEBHOOK = "failed calling webhook"
"""In what a write is answered while an admission webhook that has to be asked does not answer."""
NEW_KIND = "cannot find RESTMapping"
"""In what a child is refused with whose owner's kind is new: admission learns of new kinds every 30 s."""
VOLATILE = re.compile(r":\d+(?=->)|current time \S+ ")
"""In what two such answers about the same trouble differ: they would be news each time."""
DEEPEST = 500
TOO_DEEP = b'"nested too deep"'
BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
"""In JSON; texts too, so that none inside them count."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON = "application/json"


class ApiError(OPDError):
    """The API server's answer, when it is no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class ApiUnavailable(OPDError):
    """No usable answer: refused, reset, timed out, or a server in trouble (429, 5xx). Try again later."""


class AdmissionUnavailable(ApiUnavailable):
    """Admission cannot tell yes from no (a webhook does not answer, a kind is too new for it): the API server is well,
    and the user should know."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Api:
    """`async with Api(...)`. Safe for any number of requests at once."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.connection_pool_maxsize = 0  # watches hold theirs for minutes: no limit
        self._client = ApiClient(configuration)

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> Self:
        """By a kubeconfig, or None: as the ServiceAccount of this pod. Raises kubernetes' ConfigException."""
        configuration = Configuration()
        if kubeconfig is None:
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
        return cls(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> Body:
        """The answer's JSON. Raises ApiError or ApiUnavailable."""
        limit = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with await self._send(method, path, query, limit, body, content_type) as response:
                data = await response.read()
                _check(response.status, data)
                return loads(data) if data else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(f"{method} {path}: {error or type(error).__name__}") from error

    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Body]:
        """Watch events until the server ends the stream. Raises ApiError or ApiUnavailable."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            async with await self._send("GET", path, query, limit) as response:
                if response.status >= 400:
                    _check(response.status, await response.read())
                begun = b""
                async for chunk in response.content.iter_any():
                    *lines, begun = (begun + chunk).split(b"\n")
                    for line in lines:
                        yield loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(f"watch {path}: {error or type(error).__name__}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        limit: aiohttp.ClientTimeout,
        body: Body | None = None,
        content_type: str = JSON,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": JSON, "Content-Type": content_type}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path
        if query:
            url += "?" + urlencode(query)
        async with asyncio.timeout(limit.total):
            answer = await self._client.rest_client.request(method, url, headers, body, _request_timeout=limit)
        response: aiohttp.ClientResponse = answer.response
        return response


def loads(data: bytes) -> Body:
    """A document as deep as the API server takes (10,000 levels) would end this process, and its next start: one such
    object, and no job is looked after. Where it is too deep for us, a text stands in for what lies below."""
    try:
        document: Body = json.loads(data)
    except RecursionError:
        document = json.loads(shallow(data))
    return document


def shallow(data: bytes) -> bytes:
    """JSON, cut below DEEPEST levels."""
    kept, depth, start = [], 0, 0
    for token in BRACKETS.finditer(data):
        if token[0] in b"[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept.append(data[start : token.start()])
        elif token[0] in b"]}":
            depth -= 1
            if depth == DEEPEST:
                kept.append(TOO_DEEP)
                start = token.end()
    return b"".join([*kept, data[start:]])


def path_of(kind: Kind, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """`/apis/ray.io/v1/namespaces/ml/rayjobs/x`; without a namespace: of all of them."""
    root = "/api" if "/" not in kind.api_version else "/apis"
    within = ["namespaces", namespace] if namespace else []
    return "/".join([root, kind.api_version, *within, kind.plural, *filter(None, (name, subresource))])


def _check(status: int, data: bytes) -> None:
    if status < 400:
        return
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data[:200].decode(errors="replace")
    if status == 500 and message.startswith(UNTYPED):
        raise ApiError(422, message)
    if (status >= 500 and WEBHOOK in message) or (status == 403 and NEW_KIND in message):
        raise AdmissionUnavailable(VOLATILE.sub("", message))
    if status == 429 or status >= 500:
        raise ApiUnavailable(f"{status}: {message}")
    raise ApiError(status, message)
