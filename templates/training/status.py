"""The status server: `GET /status` and `GET /healthz` while the training runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from aiohttp import web

from .checkpoint import Checkpoint

HOST = "127.0.0.1"  # there is no access control, so other machines are not served
SHUTDOWN_TIMEOUT = 1.0  # seconds that a client has to read the rest of its response


@dataclass(slots=True)
class Status:
    """What the server answers. The results are those of the last epoch."""

    epochs: int
    state: str = "starting"
    epoch: int = 0
    best_epoch: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    def update(self, checkpoint: Checkpoint) -> None:
        """Take the results of the last epoch from a checkpoint."""
        self.state = "training"
        self.epoch = len(checkpoint.history)
        self.best_epoch = checkpoint.best_epoch
        if checkpoint.history:
            last = checkpoint.history[-1]
            self.training_loss = last.training_loss
            self.validation_loss = last.validation_loss
            self.validation_accuracy = last.validation_accuracy


@asynccontextmanager
async def serve(status: Status, port: int) -> AsyncIterator[str]:
    """Serve the status on the loopback interface; yield the server's URL.

    Port 0 picks a free one. Raises OSError if the port is taken.
    """

    async def get_status(_request: web.Request) -> web.Response:
        return web.json_response(asdict(status))

    async def get_health(_request: web.Request) -> web.Response:
        return web.json_response({"state": status.state})

    application = web.Application()
    application.router.add_get("/status", get_status)
    application.router.add_get("/healthz", get_health)
    runner = web.AppRunner(
        application, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        bound_port = runner.addresses[0][1]
        yield f"http://{HOST}:{bound_port}"
    finally:
        await runner.cleanup()
