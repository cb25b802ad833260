"""/healthz, /readyz and /metrics over HTTP. Answers; measures nothing itself."""

import logging

from aiohttp import web

from . import metrics
from .operate import Operator

log = logging.getLogger(__name__)


async def serve(operator: Operator, port: int) -> web.AppRunner:
    """Listens on every address; `cleanup` ends it. Raises OSError when the port is taken."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(operator.ill())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(operator.unready())

    async def scrape(_: web.Request) -> web.Response:
        operator.measure()
        return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    log.info("probes and metrics on port %d", port)
    return runner


def _answer(trouble: str) -> web.Response:
    return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)
