"""A broker on Redis or Valkey, with streams.

A consumer group gives each entry of the stream of jobs to one worker, and remembers it
as pending until the worker acknowledges it. An entry that has been pending for too long
is claimed by another worker. Each submitter has a stream of its own for results.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .brokers import (
    CLOSE_TIMEOUT,
    CONNECT_TIMEOUT,
    MAX_DEAD_LETTERS,
    POLL_TIME,
    PREFIX,
    RESULT_TTL,
    Broker,
    BrokerError,
    BrokerUnavailableError,
    Delivery,
    Status,
)

JOBS = f"{PREFIX}:jobs"
DEAD_LETTERS = f"{PREFIX}:dead-letters"
GROUP = "workers"

# By default, redis-py reads its own version from the disk for each new connection,
# which blocks the event loop.
DRIVER = DriverInfo()

# Redis runs this script as one command, with nothing else in between: a job is deleted
# if and only if its result has been stored.
FINISH = """
if KEYS[2] then
    redis.call('XADD', KEYS[2], '*', 'result', ARGV[3])
    redis.call('EXPIRE', KEYS[2], ARGV[4])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
"""

MAX_COMMANDS = 32  # commands at the same time
MAX_RESULTS = 100  # results that are read at once


class RedisBroker(Broker):
    """Jobs and results in Redis streams."""

    def __init__(self, commands: Redis, reads: Redis, redeliver: float) -> None:
        super().__init__(redeliver)
        # Any: its types allow for text and bytes, and for two protocols, everywhere.
        self.commands: Any = commands
        # Reads that wait have connections of their own, and never delay a command.
        self.reads: Any = reads
        self._finish: Any = commands.register_script(FINISH)
        self._last_result = "0"
        self._next_claim = 0.0
        self._is_worker = False
        self._reading = asyncio.Lock()
        self._reads = 0
        self._read_error: BrokerUnavailableError | None = None
        self._waiting = 0  # calls of `take` that wait for a job
        self._ready: deque[Delivery] = deque()  # jobs for these calls

    @classmethod
    async def connect(cls, url: str, redeliver: float) -> "RedisBroker":
        """Connect to the server. Raises BrokerError, or ValueError for a bad URL."""
        options: dict[str, Any] = {
            "protocol": 2,
            "driver_info": DRIVER,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": POLL_TIME + CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),  # class Recovery does this
        }
        # A command waits for a free connection. By default it would fail.
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, max_connections=MAX_COMMANDS, **options
        )
        reads: Redis = Redis.from_url(url, **options)
        broker = cls(Redis.from_pool(pool), reads, redeliver)
        try:
            await broker.prepare()
        except BaseException:
            await broker._disconnect()
            raise
        return broker

    async def prepare(self) -> None:
        with clear_errors():
            if not await self._has_group():
                await self._create_group()

    async def _create_group(self) -> None:
        try:
            # From "0": the group gets what the stream already contains.
            await self.commands.xgroup_create(JOBS, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            # Another program may have created it at the same time.
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _has_group(self) -> bool:
        try:
            groups = await self.commands.xinfo_groups(JOBS)
        except ResponseError:  # there is no such stream
            return False
        return any(group["name"] == GROUP.encode() for group in groups)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._clean_up()
        except (RedisError, OSError, TimeoutError):
            pass  # the server is not available; it deletes the inbox when that expires
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self.commands.aclose()
        await self.reads.aclose()

    async def _clean_up(self) -> None:
        await self.commands.delete(inbox_key(self.inbox))
        if not self._is_worker:
            return
        # A consumer with pending entries stays, for those who claim them.
        pending = await self.commands.xpending_range(
            JOBS, GROUP, "-", "+", count=1, consumername=self.inbox
        )
        if not pending:
            await self.commands.xgroup_delconsumer(JOBS, GROUP, self.inbox)

    # --- For the submitter

    async def submit(self, job_id: str, message: bytes) -> str:
        with clear_errors():
            entry_id: bytes = await self.commands.xadd(JOBS, {"job": message})
        return entry_id.decode()

    async def read_results(self) -> list[bytes]:
        inbox = inbox_key(self.inbox)
        with clear_errors():
            streams = await self.reads.xread(
                {inbox: self._last_result},
                count=MAX_RESULTS,
                block=int(POLL_TIME * 1000),
            )
            if not streams:
                return []
            entries = streams[0][1]
            self._last_result = entries[-1][0]
            await self.commands.xdel(inbox, *[entry_id for entry_id, _ in entries])
        return [fields[b"result"] for _, fields in entries]

    async def status(self, receipt: str) -> Status:
        with clear_errors():
            if await self.commands.xpending_range(JOBS, GROUP, receipt, receipt, 1):
                return Status.TAKEN
            if await self.commands.xrange(JOBS, receipt, receipt):
                return Status.QUEUED
        return Status.GONE

    # --- For workers

    async def take(self) -> Delivery | None:
        """Return a job to do. One read gets jobs for all calls that wait for one."""
        self._is_worker = True
        self._waiting += 1
        read_number = self._reads
        try:
            async with self._reading:
                # Another call may have read in the meantime. Then it read for us too.
                if not self._ready and self._reads == read_number:
                    await self._fill()
                if self._ready:
                    return self._ready.popleft()
                if self._read_error is not None:
                    raise BrokerUnavailableError(str(self._read_error))
                return None
        finally:
            self._waiting -= 1

    async def _fill(self) -> None:
        """Read jobs for all calls that wait. An error is for all of them, too."""
        self._read_error = None
        try:
            self._ready += await self._read_jobs(self._waiting)
        except BrokerUnavailableError as error:
            self._read_error = error
        finally:
            self._reads += 1

    async def _read_jobs(self, count: int) -> list[Delivery]:
        """Return up to `count` jobs: abandoned ones if there are any, or new ones."""
        with clear_errors():
            try:
                abandoned = await self._claim()
                if abandoned is not None:
                    return [abandoned]
                return await self._read_new(count)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                # The server has lost its data.
                await self.prepare()
                return []

    async def _claim(self) -> Delivery | None:
        """Return a job whose worker has not touched it for `redeliver` seconds."""
        now = asyncio.get_running_loop().time()
        if now < self._next_claim:
            return None
        idle = int(self.redeliver * 1000)
        abandoned = await self.commands.xpending_range(
            JOBS, GROUP, "-", "+", count=1, idle=idle
        )
        if not abandoned:
            self._next_claim = now + min(self.redeliver / 4, 5.0)
            return None
        entry_id = abandoned[0]["message_id"]
        number = abandoned[0]["times_delivered"] + 1
        # Only the first worker that claims it gets it: then it is no longer idle.
        entries = await self.commands.xclaim(JOBS, GROUP, self.inbox, idle, [entry_id])
        if not entries:
            return None
        _, fields = entries[0]
        return Delivery(fields[b"job"], number, entry_id)

    async def _read_new(self, count: int) -> list[Delivery]:
        """Return up to `count` new jobs; none if none came for a while."""
        streams = await self.reads.xreadgroup(
            GROUP, self.inbox, {JOBS: ">"}, count=count, block=int(POLL_TIME * 1000)
        )
        if not streams:
            return []
        entries = streams[0][1]
        return [Delivery(fields[b"job"], 1, entry_id) for entry_id, fields in entries]

    async def touch(self, delivery: Delivery) -> None:
        with clear_errors():
            # Claiming a job again resets its idle time. JUSTID: the deliveries that
            # the server counts stay as they are.
            await self.commands.xclaim(
                JOBS, GROUP, self.inbox, 0, [delivery.receipt], justid=True
            )

    async def finish(
        self, delivery: Delivery, inbox: str | None, result: bytes
    ) -> None:
        keys = [JOBS]
        if inbox is not None:
            keys.append(inbox_key(inbox))
        with clear_errors():
            await self._finish(
                keys=keys, args=[GROUP, delivery.receipt, result, RESULT_TTL]
            )

    async def keep_dead_letter(self, delivery: Delivery, reason: str) -> None:
        fields: dict[Any, Any] = {"job": delivery.message, "reason": reason}
        with clear_errors():
            await self.commands.xadd(DEAD_LETTERS, fields, maxlen=MAX_DEAD_LETTERS)


def inbox_key(inbox: str) -> str:
    """Return the key of the stream with the results for one submitter."""
    return f"{PREFIX}:results:{inbox}"


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors of redis-py into those of brokers.py."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise BrokerUnavailableError(str(error) or repr(error)) from error
    except RedisError as error:
        raise BrokerError(f"Redis refused it: {error}") from error
