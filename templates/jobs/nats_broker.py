"""A broker on NATS, with JetStream.

Jobs are messages in a work queue stream: the server deletes a message when a worker
acknowledges it, and delivers it again if no acknowledgement comes in time. Results are
messages in a second stream, each for the inbox of one submitter.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    RawStreamMsg,
    RetentionPolicy,
    StreamConfig,
)

from .brokers import (
    CLOSE_TIMEOUT,
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
from .text import printable

log = logging.getLogger(__name__)

# Names of streams, and subjects of the messages in them.
JOBS = f"{PREFIX}-jobs"
RESULTS = f"{PREFIX}-results"
DEAD_LETTERS = f"{PREFIX}-dead-letters"

WORKERS = "workers"  # the consumer that all workers share
HEADER_BYTES = 1_000  # the limit for messages includes their headers
REQUEST_TIMEOUT = 5.0  # seconds
MAX_WAITING = 100_000  # requests for a job: one for each job that a fleet can do

# A worker asks the server for one message with a request to this subject.
NEXT_JOB = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{WORKERS}"


class NatsBroker(Broker):
    """Jobs and results in JetStream."""

    def __init__(self, client: Client, redeliver: float) -> None:
        super().__init__(redeliver)
        self.client = client
        self.jetstream: JetStreamContext = client.jetstream(timeout=REQUEST_TIMEOUT)
        limit = client.max_payload - HEADER_BYTES
        self.max_message_bytes = min(self.max_message_bytes, limit)
        self._results: Subscription | None = None
        self._is_worker = False

    @classmethod
    async def connect(cls, url: str, redeliver: float) -> "NatsBroker":
        """Connect to the server. Raises BrokerError, or ValueError for a bad URL."""
        with clear_errors():
            client = await open_connection(url)
        broker = cls(client, redeliver)
        try:
            await broker.prepare()
        except BaseException:
            await close_connection(client)
            raise
        return broker

    async def prepare(self) -> None:
        with clear_errors():
            await self._create_streams()
            if self._results is not None:
                await self._create_inbox(self._results.subject)
            if self._is_worker:
                await self._create_workers()

    async def _create_streams(self) -> None:
        """Create the streams that do not exist yet."""
        jobs = StreamConfig(JOBS, subjects=[JOBS], retention=RetentionPolicy.WORK_QUEUE)
        results = StreamConfig(
            RESULTS,
            subjects=[inbox_subject("*")],
            retention=RetentionPolicy.WORK_QUEUE,
            max_age=RESULT_TTL,
        )
        dead_letters = StreamConfig(
            DEAD_LETTERS, subjects=[DEAD_LETTERS], max_msgs=MAX_DEAD_LETTERS
        )
        for stream in (jobs, results, dead_letters):
            await self.jetstream.add_stream(stream)

    async def _create_inbox(self, subject: str) -> None:
        """Let the server send this submitter's results to a subject."""
        config = ConsumerConfig(
            durable_name=self.inbox,
            filter_subject=inbox_subject(self.inbox),
            deliver_subject=subject,
            ack_policy=AckPolicy.EXPLICIT,
            # The server deletes it after this time without a listener.
            inactive_threshold=RESULT_TTL,
        )
        await self.jetstream.add_consumer(RESULTS, config)

    async def _create_workers(self) -> None:
        """Create the consumer that all workers share."""
        config = ConsumerConfig(
            durable_name=WORKERS,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.redeliver,
            max_deliver=-1,  # class Worker limits it, and sets the job aside
            max_ack_pending=-1,
            max_waiting=MAX_WAITING,
        )
        await self.jetstream.add_consumer(JOBS, config)

    async def _recover(self) -> NoReturn:
        """Create what a server without its data does not have. Then try again."""
        await self.prepare()
        raise BrokerUnavailableError(
            "the server had no stream; it has been created again"
        )

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._clean_up()
        except (nats.errors.Error, OSError, TimeoutError):
            pass  # the server is not available; it deletes the inbox later
        await close_connection(self.client)

    async def _clean_up(self) -> None:
        """Delete this submitter's inbox."""
        if self._results is None or not self.client.is_connected:
            return
        await self.jetstream.delete_consumer(RESULTS, self.inbox)
        await self.jetstream.purge_stream(RESULTS, subject=inbox_subject(self.inbox))

    # --- For the submitter

    async def submit(self, job_id: str, message: bytes) -> str:
        # The server ignores a second message with the same ID. It comes when the
        # confirmation of the first one was lost.
        headers = {"Nats-Msg-Id": job_id}
        with clear_errors():
            try:
                stored = await self.jetstream.publish(JOBS, message, headers=headers)
            except nats.js.errors.NoStreamResponseError:
                await self._recover()
        return f"{stored.seq} {job_id}"

    async def read_results(self) -> list[bytes]:
        with clear_errors():
            if self._results is None:
                self._results = await self.client.subscribe(self.client.new_inbox())
                await self._create_inbox(self._results.subject)
            try:
                messages = [await self._results.next_msg(timeout=POLL_TIME)]
            except nats.errors.TimeoutError:
                # The server may also be unavailable. It answers this.
                await self.client.flush(timeout=int(REQUEST_TIMEOUT))
                if not self.client.is_connected:
                    raise BrokerUnavailableError("the connection is lost") from None
                return []
            while self._results.pending_msgs:
                messages.append(await self._results.next_msg(timeout=POLL_TIME))
            for message in messages:
                await message.ack()
        return [message.data for message in messages]

    async def status(self, receipt: str) -> Status:
        sequence, _, job_id = receipt.partition(" ")
        with clear_errors():
            try:
                message = await self.jetstream.get_msg(JOBS, int(sequence))
            except nats.js.errors.NotFoundError:
                return Status.GONE
            if not has_id(message, job_id):
                return Status.GONE
            try:
                workers = await self.jetstream.consumer_info(JOBS, WORKERS)
            except nats.js.errors.NotFoundError:
                return Status.QUEUED
        delivered = workers.delivered.stream_seq if workers.delivered else 0
        return Status.TAKEN if delivered >= int(sequence) else Status.QUEUED

    # --- For workers

    async def take(self) -> Delivery | None:
        if not self._is_worker:
            with clear_errors():
                await self._create_workers()
            self._is_worker = True
        request = {"batch": 1, "expires": int(POLL_TIME * 1e9)}  # nanoseconds
        with clear_errors():
            try:
                message = await self.client.request(
                    NEXT_JOB,
                    json.dumps(request).encode(),
                    timeout=3 * POLL_TIME,
                    # A subscription for each request. The new style finds the request
                    # by the reply's subject, and JetStream sends jobs under their own.
                    old_style=True,
                )
            except nats.errors.NoRespondersError:
                await self._recover()
        status = status_of(message)
        if status is None:
            number = message.metadata.num_delivered
            return Delivery(message.data, number, message)
        if status == "408":  # no job came in time
            return None
        description = (message.headers or {}).get("Description", "")
        raise BrokerUnavailableError(f"no job: {status} {description}")

    async def touch(self, delivery: Delivery) -> None:
        with clear_errors():
            await delivery.receipt.in_progress()

    async def finish(
        self, delivery: Delivery, inbox: str | None, result: bytes
    ) -> None:
        message: Msg = delivery.receipt
        with clear_errors():
            if inbox is not None:
                await self._publish(inbox_subject(inbox), result)
            await message.ack()

    async def keep_dead_letter(self, delivery: Delivery, reason: str) -> None:
        # A header is one line of ASCII, and its size counts for the message's limit.
        text = printable(reason).encode("ascii", "backslashreplace").decode()
        headers = {"Reason": text[: HEADER_BYTES // 2]}
        with clear_errors():
            await self._publish(DEAD_LETTERS, delivery.message, headers)

    async def _publish(
        self, subject: str, message: bytes, headers: dict[str, Any] | None = None
    ) -> None:
        try:
            await self.jetstream.publish(subject, message, headers=headers)
        except nats.js.errors.NoStreamResponseError:
            await self._recover()


async def open_connection(url: str) -> Client:
    """Connect to the server. One attempt: the first error ends it."""
    parts = urlsplit(url)
    # `port` raises ValueError if it is not a number.
    if not parts.hostname or parts.port == 0:
        raise BrokerError("the URL needs a host: nats://host or nats://host:port")
    client = Client()
    connecting = True

    async def on_error(error: Exception) -> None:
        if connecting:
            raise error
        log.debug("%r", error)  # nats-py reconnects, and operations fail until then

    try:
        await client.connect(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            error_cb=on_error,
            max_reconnect_attempts=-1,  # class Recovery sets the limit
            reconnect_time_wait=1,
            **credentials(parts),
        )
    except BaseException:
        connecting = False
        await close_connection(client)
        raise
    connecting = False
    return client


def credentials(parts: SplitResult) -> dict[str, Any]:
    """Return the credentials in a URL as nats-py wants them: not percent-encoded."""
    if parts.username is None:
        return {}
    user = unquote(parts.username)
    if parts.password is None:
        return {"token": user}
    return {"user": user, "password": unquote(parts.password)}


async def close_connection(client: Client) -> None:
    """Disconnect, also while the server is not available."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await client.close()
    except Exception:
        # While the server is not available, nats-py writes to a closed connection. The
        # error depends on the version of Python; TypeError is one of them.
        log.debug("the connection was not closed properly", exc_info=True)


def inbox_subject(inbox: str) -> str:
    """Return the subject of the results for one submitter."""
    return f"{RESULTS}.{inbox}"


def status_of(message: Msg) -> str | None:
    """Return the status that the server sends in place of a job, or None for a job."""
    headers = message.headers or {}
    status: str | None = headers.get("Status")
    return status


def has_id(message: RawStreamMsg, job_id: str) -> bool:
    """Return whether the message is this job, not one of a stream created later."""
    headers = message.headers or {}
    return headers.get("Nats-Msg-Id") == job_id


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors of nats-py into those of brokers.py."""
    try:
        yield
    except nats.js.errors.ServiceUnavailableError as error:
        reason = error.description or "JetStream is not available: start NATS with -js"
        raise BrokerUnavailableError(reason) from error
    except (nats.js.errors.APIError, nats.errors.MaxPayloadError) as error:
        raise BrokerError(f"NATS refused it: {error}") from error
    except (nats.errors.Error, OSError) as error:
        raise BrokerUnavailableError(str(error) or repr(error)) from error
