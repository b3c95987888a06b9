"""What all brokers have in common: their operations, their errors, and outages.

A broker stands between the program that submits jobs and the workers that do them. It
keeps a job until a worker has finished it, and gives the job to another worker if that
one dies. There are three: memory_broker.py, nats_broker.py and redis_broker.py.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

from .messages import MAX_MESSAGE_BYTES
from .text import mask_credentials

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# What this program stores on a broker has names that begin with this, because other
# programs may use the same broker.
PREFIX = __package__.replace(".", "-")

CONNECT_TIMEOUT = 5.0  # seconds
CLOSE_TIMEOUT = 2.0  # seconds
POLL_TIME = 1.0  # seconds that `take` and `read_results` wait for something
RETRY_PAUSE = 0.5  # seconds between two attempts while the broker is not available
LOG_INTERVAL = 10.0  # seconds; outages in quick succession are logged less often
RESULT_TTL = 24 * 3600  # seconds until a broker deletes results that are not read
MAX_DEAD_LETTERS = 10_000  # the broker deletes the oldest ones above this number


class BrokerError(Exception):
    """The broker cannot be used, or refuses an operation."""


class BrokerUnavailableError(BrokerError):
    """The broker does not answer. The same operation may succeed later."""


class Status(Enum):
    """Where a job is."""

    QUEUED = "no worker has taken it"
    TAKEN = "a worker has taken it"
    GONE = "the broker does not have it: it is finished or lost"


@dataclass(eq=False, slots=True)
class Delivery:
    """A job that the broker has given to this worker.

    `number` counts the deliveries of this job, from 1. `receipt` is for the broker.
    """

    message: bytes
    number: int
    receipt: Any


class Broker(ABC):
    """A connection to a broker.

    Each method makes one attempt. It raises BrokerUnavailableError if the broker does
    not answer, and BrokerError if it refuses the operation.
    """

    def __init__(self, redeliver: float) -> None:
        self.redeliver = redeliver
        self.max_message_bytes = MAX_MESSAGE_BYTES
        self.inbox = uuid4().hex  # where the results of this connection's jobs go

    @abstractmethod
    async def prepare(self) -> None:
        """Create what this program needs on the broker, if it is missing.

        Done at first, and now and then later: a server can lose its data.
        """

    async def close(self) -> None:  # noqa: B027 - there may be nothing to do
        """Disconnect. Raises no BrokerError."""

    # --- For the submitter

    @abstractmethod
    async def submit(self, job_id: str, message: bytes) -> str:
        """Store a job, and return a receipt for `status`."""

    @abstractmethod
    async def read_results(self) -> list[bytes]:
        """Return results of this connection's jobs; none if none came for a while."""

    @abstractmethod
    async def status(self, receipt: str) -> Status:
        """Return where a submitted job is."""

    # --- For workers

    @abstractmethod
    async def take(self) -> Delivery | None:
        """Return a job to do, or None if none came for a while."""

    @abstractmethod
    async def touch(self, delivery: Delivery) -> None:
        """Keep a job for another `redeliver` seconds."""

    @abstractmethod
    async def finish(
        self, delivery: Delivery, inbox: str | None, result: bytes
    ) -> None:
        """Send the result to an inbox, if there is one; then delete the job."""

    @abstractmethod
    async def keep_dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Store a copy of a job that will not be done, so that it can be examined."""


@asynccontextmanager
async def connected(url: str, redeliver: float = 30.0) -> AsyncIterator[Broker]:
    """Connect to the broker at `url`; disconnect after the block.

    A job is delivered again if its worker sends no heartbeat for `redeliver`
    seconds. Raises BrokerError, with a message that explains everything in one line.
    """
    broker = await connect_or_explain(url, redeliver)
    try:
        yield broker
    finally:
        await broker.close()


async def connect_or_explain(url: str, redeliver: float) -> Broker:
    """Return a connection. Raises BrokerError, with the URL and the reason."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await connect(url, redeliver)
    except TimeoutError:
        reason = f"no answer within {CONNECT_TIMEOUT:g} s"
    except (BrokerError, ValueError) as error:
        reason = str(error)
    raise_if_cancelled()
    raise BrokerError(mask_credentials(f"no broker at {url}: {reason}"))


async def connect(url: str, redeliver: float) -> Broker:
    """Return a broker of the kind that the URL's scheme says."""
    scheme = url.partition("://")[0]
    # A project needs only the libraries of the broker that it uses.
    if scheme == "memory":
        from .memory_broker import MemoryBroker

        return MemoryBroker(redeliver)
    if scheme in {"nats", "tls"}:
        try:
            from .nats_broker import NatsBroker
        except ImportError:
            raise BrokerError(
                "install the extra `nats`: uv sync --extra nats"
            ) from None
        return await NatsBroker.connect(url, redeliver)
    if scheme in {"redis", "rediss"}:
        try:
            from .redis_broker import RedisBroker
        except ImportError:
            message = "install the extra `redis`: uv sync --extra redis"
            raise BrokerError(message) from None
        return await RedisBroker.connect(url, redeliver)
    raise BrokerError(
        "a URL begins with memory://, nats://, tls://, redis:// or rediss://"
    )


class Recovery:
    """Retries an operation while the broker is not available.

    Each is retried for up to `timeout` seconds. All operations of a program share one
    `Recovery`, so that an outage is logged once.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._is_unavailable = False
        self._logged_at = -LOG_INTERVAL

    async def call(
        self, operation: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what `operation` returns.

        Raises BrokerUnavailableError if that has been its error for `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        first_failure: float | None = None
        while True:
            try:
                result = await operation(*args, **kwargs)
            except BrokerUnavailableError as error:
                reason = error
            else:
                self._note_success()
                raise_if_cancelled()
                return result
            now = loop.time()
            if first_failure is None:
                first_failure = now
            self._note_failure(reason, now)
            if now - first_failure >= self.timeout:
                seconds = f"{self.timeout:g} s"
                message = f"the broker has not been available for {seconds}: {reason}"
                raise BrokerUnavailableError(message) from reason
            raise_if_cancelled()
            await asyncio.sleep(RETRY_PAUSE)

    def _note_failure(self, reason: BrokerUnavailableError, now: float) -> None:
        if not self._is_unavailable and now - self._logged_at >= LOG_INTERVAL:
            self._is_unavailable = True
            self._logged_at = now
            log.warning("the broker is not available: %s", mask_credentials(reason))

    def _note_success(self) -> None:
        if self._is_unavailable:
            self._is_unavailable = False
            log.warning("the broker is available again")


def is_cancelled() -> bool:
    """Return whether the current asyncio task is being cancelled from outside."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def raise_if_cancelled() -> None:
    """Raise the CancelledError that a library has swallowed.

    The libraries of brokers use `asyncio.wait_for`, which can lose a cancellation
    before Python 3.12. Without this, a loop of calls would never end.
    """
    if is_cancelled():
        raise asyncio.CancelledError
