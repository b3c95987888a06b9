"""A worker process that converts files, so that the event loop stays free.

The program and the process exchange lines of JSON through pipes. A process can be
killed at any time, whatever library code it runs; a thread could not.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .plan import Job, Settings
from .report import Result

START_TIMEOUT = 120.0  # seconds; importing the libraries can be slow on a busy machine
CLOSE_TIMEOUT = 5.0  # seconds
MAX_LINE_BYTES = 2**20


class WorkerError(Exception):
    """The process has ended without a result, or was not ready in time."""


@dataclass(frozen=True)
class Connection:
    """A process and the pipes to and from it."""

    process: Process
    to_process: asyncio.StreamWriter
    from_process: asyncio.StreamReader


class Worker:
    """One worker process, which converts one file at a time.

    `folder` is for unfinished files; it must be on the file system of the outputs.
    `modules` are the modules that the process imports before it accepts jobs. After the
    block of `async with` the process has ended.
    """

    def __init__(
        self, folder: Path, settings: Settings, modules: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.modules = modules
        self._connection: Connection | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not been killed or closed."""
        return self._connection is not None

    @property
    def process(self) -> Process:
        """The process. Raises RuntimeError if there is none."""
        return self._connected().process

    def _connected(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the worker has not been started")
        return self._connection

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises WorkerError if it ends instead, cannot import a module, or takes longer
        than `START_TIMEOUT` seconds.
        """
        # A cancellation in the middle must not lose the process.
        await complete(self._spawn())
        try:
            async with asyncio.timeout(START_TIMEOUT):
                message = await read_message(self._connected())
        except TimeoutError:
            raise WorkerError(
                f"the worker process was not ready within {START_TIMEOUT:g} s"
            ) from None
        if "error" in message:
            raise WorkerError(f"the worker process cannot start: {message['error']}")

    async def _spawn(self) -> None:
        # The process finds the package where this program found it.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Import nothing from the current folder, which may contain anything.
            "-P",
            "-m",
            f"{__package__}.converter",
            str(self.folder),
            *self.modules,
            stdin=PIPE,
            stdout=PIPE,
            # Decoders in C print their warnings there, without the name of the file.
            stderr=DEVNULL,
            env=environment,
            limit=MAX_LINE_BYTES,
            # Ctrl-C is sent to all processes in the foreground. It must reach only this
            # program, which then ends the workers.
            start_new_session=True,
            creationflags=flags,
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._connection = Connection(process, process.stdin, process.stdout)

    async def convert(self, job: Job) -> Result:
        """Return the result of converting one file.

        Raises WorkerError if the process ends. If the call is cancelled, the process is
        still busy: kill it.
        """
        connection = self._connected()
        message = {
            "module": job.kind.module,
            "source": str(job.source),
            "outputs": [str(output) for output in job.outputs],
            "settings": asdict(self.settings),
        }
        connection.to_process.write(json.dumps(message).encode() + b"\n")
        try:
            await connection.to_process.drain()
        except ConnectionError:
            pass  # the process has ended; reading says how
        answer = await read_message(connection)
        return Result(
            source=job.source,
            outputs=job.outputs,
            details=answer.get("details", {}),
            warnings=answer.get("warnings", []),
            error=answer.get("error"),
        )

    async def kill(self) -> None:
        """End the process at once, if there is one."""
        if self._connection is None:
            return
        connection = self._connection
        self._connection = None
        try:
            connection.process.kill()
        except ProcessLookupError:
            pass  # it has ended already
        await complete(wait_until_ended(connection))

    async def close(self) -> None:
        """Let the process end, and kill it if it does not within `CLOSE_TIMEOUT`."""
        if self._connection is None:
            return
        self._connection.to_process.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._connection.process.wait()
        except TimeoutError:
            pass
        finally:
            await self.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            await self.close()
        else:
            await self.kill()


async def complete(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, even if this call is cancelled in the meantime."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def read_message(connection: Connection) -> dict[str, Any]:
    """Return the next message of a process. Raises WorkerError if it has ended."""
    line = await connection.from_process.readline()
    if not line.endswith(b"\n"):
        status = await connection.process.wait()
        raise WorkerError(f"the worker process {describe_status(status)}")
    message: dict[str, Any] = json.loads(line)
    return message


async def wait_until_ended(connection: Connection) -> None:
    """Wait until a process has ended and its pipes are closed."""
    connection.to_process.close()
    # The pipe from the process is closed when it has been read to its end.
    while await connection.from_process.read(MAX_LINE_BYTES):
        pass
    await connection.process.wait()


def describe_status(status: int) -> str:
    """Return how a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}"
