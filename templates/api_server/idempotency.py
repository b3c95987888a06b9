"""Requests that a client may repeat without doing the work twice.

A client that got no answer cannot know whether its request was carried out. If it sends
the header `Idempotency-Key` with a value of its own, it may send the same request again
with the same key, and gets the answer to the first one. The answer is stored in the
transaction of the work itself, so that either both happen or neither.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from .database import Database, reason
from .models import StoredAnswer
from .problems import MEDIA_TYPE, Problem

log = logging.getLogger(__name__)

MAX_PURGE_INTERVAL = 3600.0  # seconds
MAX_KEY_LENGTH = 200


class KeyReusedError(Problem):
    """The key belongs to another request."""

    status = 422


@dataclass
class IdempotentRequest:
    """A request, in the transaction of a session.

    `operation` is its method and path. `key` is None if the client sent none; then the
    request is like any other. Keys expire `lifetime` seconds after their first use.
    """

    session: AsyncSession
    operation: str
    key: str | None
    lifetime: float
    clock: Callable[[], float] = field(default=time.time)

    async def answer(
        self,
        status: int,
        payload: BaseModel,
        work: Callable[[], Awaitable[BaseModel]],
    ) -> Response:
        """Do the work and return its result with this status; or the stored answer.

        A problem of the client, such as "sold out", is an answer too. If two requests
        with the same key arrive at the same time, the second one waits for the first.
        Raises KeyReusedError if the key was used with another payload or operation.
        """
        if self.key is None:
            result = await work()
            return json_response(status, result.model_dump_json())
        fingerprint = self._fingerprint(payload)
        if not await self._claim(fingerprint):
            return await self._stored_answer(fingerprint)
        try:
            # Work that fails is rolled back to this point, so that its answer can
            # still be stored.
            async with self.session.begin_nested():
                result = await work()
            response = json_response(status, result.model_dump_json())
        except Problem as problem:
            if problem.status >= 500:
                raise
            response = problem.response()
        await self._store(response)
        return response

    def _fingerprint(self, payload: BaseModel) -> str:
        """Return a hash of the operation and the payload."""
        text = f"{self.operation}\n{payload.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()

    async def _claim(self, fingerprint: str) -> bool:
        """Return whether the key is new, or expired; then it is ours from now on.

        While another transaction claims the same key, the database makes this one wait.
        """
        now = self.clock()
        values = {
            "fingerprint": fingerprint,
            "status": 0,
            "body": "",
            "expires_at": now + self.lifetime,
        }
        insert: sqlite.Insert | postgresql.Insert
        if self.session.get_bind().dialect.name == "sqlite":
            insert = sqlite.insert(StoredAnswer)
        else:
            insert = postgresql.insert(StoredAnswer)
        claim = insert.values(key=self.key, **values).on_conflict_do_update(
            index_elements=[StoredAnswer.key],
            set_=values,
            where=StoredAnswer.expires_at <= now,
        )
        claimed = await self.session.scalar(claim.returning(StoredAnswer.key))
        return claimed is not None

    async def _stored_answer(self, fingerprint: str) -> Response:
        """Return the answer to the first request with this key."""
        query = select(StoredAnswer).where(StoredAnswer.key == self.key)
        stored = (await self.session.scalars(query)).one()
        if stored.fingerprint != fingerprint:
            raise KeyReusedError("This Idempotency-Key belongs to another request.")
        response = json_response(stored.status, stored.body)
        response.headers["Idempotency-Replayed"] = "true"
        return response

    async def _store(self, response: Response) -> None:
        """Keep the answer for requests that repeat this one."""
        await self.session.execute(
            update(StoredAnswer)
            .where(StoredAnswer.key == self.key)
            .values(status=response.status_code, body=bytes(response.body).decode())
        )


def json_response(status: int, body: str) -> Response:
    """Return a response with a body that is JSON already."""
    media_type = "application/json" if status < 400 else MEDIA_TYPE
    return Response(body, status, media_type=media_type)


async def purge_expired_keys(
    database: Database,
    lifetime: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Delete the expired keys from time to time, until this is cancelled."""
    while True:
        await asyncio.sleep(min(lifetime, MAX_PURGE_INTERVAL))
        try:
            async with database.transaction() as session:
                await session.execute(
                    delete(StoredAnswer).where(StoredAnswer.expires_at <= clock())
                )
        except (OSError, SQLAlchemyError, Problem) as error:
            log.warning("expired keys are kept for now: %s", reason(error))
