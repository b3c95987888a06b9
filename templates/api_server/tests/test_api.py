"""The API. Each test runs in process and live, on SQLite and on PostgreSQL."""

import asyncio
from collections import Counter
from uuid import uuid4

import httpx2
import pytest


async def add_event(client: httpx2.AsyncClient, seats: int = 10) -> int:
    """Create an event and return its id."""
    response = await client.post("/events", json={"name": "Concert", "seats": seats})
    assert response.status_code == 201
    event_id: int = response.json()["id"]
    return event_id


async def book(
    client: httpx2.AsyncClient, event_id: int, seats: int = 1
) -> httpx2.Response:
    """Book seats."""
    body = {"name": "Ada", "seats": seats}
    return await client.post(f"/events/{event_id}/bookings", json=body)


async def seats_left(client: httpx2.AsyncClient, event_id: int) -> int:
    """Return how many seats are left."""
    response = await client.get(f"/events/{event_id}")
    left: int = response.json()["seats_left"]
    return left


def assert_problem(response: httpx2.Response, status: int) -> str:
    """Assert that a response is a problem with this status; return its detail."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    details = response.json()
    assert details["type"] == "about:blank"
    assert details["status"] == status
    assert details["title"]
    detail: str = details["detail"]
    return detail


# --- Events and bookings


@pytest.mark.asyncio
async def test_an_event_can_be_read_after_it_is_created(
    client: httpx2.AsyncClient,
) -> None:
    created = await client.post("/events", json={"name": " Concert ", "seats": 3})
    assert created.status_code == 201
    event = created.json()
    assert event == {"id": event["id"], "name": "Concert", "seats": 3, "seats_left": 3}
    response = await client.get(f"/events/{event['id']}")
    assert response.status_code == 200
    assert response.json() == event


@pytest.mark.asyncio
async def test_a_booking_takes_its_seats(client: httpx2.AsyncClient) -> None:
    event_id = await add_event(client, seats=10)
    booked = await book(client, event_id, seats=3)
    assert booked.status_code == 201
    booking = booked.json()
    assert booking["seats"] == 3
    assert booking["event_id"] == event_id
    response = await client.get(f"/bookings/{booking['id']}")
    assert response.json() == booking
    assert await seats_left(client, event_id) == 7


@pytest.mark.asyncio
async def test_a_cancelled_booking_returns_its_seats_once(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=10)
    booking = (await book(client, event_id, seats=4)).json()
    responses = await asyncio.gather(
        *(client.delete(f"/bookings/{booking['id']}") for _ in range(5))
    )
    statuses = Counter(response.status_code for response in responses)
    assert statuses == {204: 1, 404: 4}
    assert await seats_left(client, event_id) == 10
    assert_problem(await client.get(f"/bookings/{booking['id']}"), 404)


@pytest.mark.asyncio
async def test_pages_show_each_event_once(client: httpx2.AsyncClient) -> None:
    created = [await add_event(client) for _ in range(5)]
    found = []
    sizes = []
    cursor = 0
    while cursor is not None:
        response = await client.get("/events", params={"cursor": cursor, "limit": 2})
        page = response.json()
        found += [event["id"] for event in page["items"]]
        sizes.append(len(page["items"]))
        cursor = page["next_cursor"]
    assert found == created
    assert sizes == [2, 2, 1]


# --- The last seats


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_two_hundred_concurrent_requests_for_ten_seats_sell_ten(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=10)
    requests = []
    async with asyncio.TaskGroup() as tasks:
        for _ in range(200):
            requests.append(tasks.create_task(book(client, event_id)))
            # Let the first ones begin, as they would if they came over a network.
            await asyncio.sleep(0)
    statuses = Counter(request.result().status_code for request in requests)
    assert statuses == {201: 10, 409: 190}
    assert await seats_left(client, event_id) == 0


@pytest.mark.asyncio
async def test_bookings_and_cancellations_at_once_lose_no_seat(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=3)

    async def book_and_cancel() -> None:
        response = await book(client, event_id)
        if response.status_code == 201:
            await client.delete(f"/bookings/{response.json()['id']}")

    await asyncio.gather(*(book_and_cancel() for _ in range(30)))
    assert await seats_left(client, event_id) == 3


@pytest.mark.asyncio
async def test_a_booking_that_does_not_fit_books_nothing(
    client: httpx2.AsyncClient,
) -> None:
    event_id = await add_event(client, seats=2)
    detail = assert_problem(await book(client, event_id, seats=3), 409)
    assert detail == "2 of 2 seats are left, not 3."
    assert await seats_left(client, event_id) == 2


# --- Errors

INVALID_EVENTS = [
    (b'{"name": "x"}', "body.seats"),
    (b'{"name": "x", "seats": 0}', "body.seats"),
    (b'{"name": "x", "seats": 1e30}', "body.seats"),
    (b'{"name": "x", "seats": "many"}', "body.seats"),
    (b'{"name": "", "seats": 1}', "body.name"),
    (b'{"name": "a\\u0000", "seats": 1}', "body.name"),
    (b'{"name": "\\ud800", "seats": 1}', "body.name"),
    (b'{"name": "x", "seats": 1, "sets": 1}', "body.sets"),
    (b"[]", "body"),
    (b"", "body"),
    (b"{", "body.1"),
]
NOT_JSON = {
    "nested too deeply": b"[" * 50_000,
    "a number that is too long": b"9" * 50_000,
    "not UTF-8": b'"\xff"',
    "half of a character": b'{"\\ud800": 1}',
}
INVALID_PATHS = [
    "/events/0",
    f"/events/{2**63}",
    "/events/first",
    "/bookings/1",
    "/events?limit=0",
    "/events?cursor=-1",
]


async def post_bytes(client: httpx2.AsyncClient, body: bytes) -> httpx2.Response:
    """Send an event as it is."""
    headers = {"Content-Type": "application/json"}
    return await client.post("/events", content=body, headers=headers)


@pytest.mark.asyncio
async def test_what_does_not_exist_is_not_found(client: httpx2.AsyncClient) -> None:
    for path in ["/events/77", f"/bookings/{uuid4()}", "/no-such-path"]:
        assert_problem(await client.get(path), 404)
    assert_problem(await client.delete(f"/bookings/{uuid4()}"), 404)
    assert assert_problem(await book(client, 77), 404) == "There is no event 77."


@pytest.mark.asyncio
async def test_a_method_that_is_not_allowed_is_a_problem(
    client: httpx2.AsyncClient,
) -> None:
    response = await client.put("/events")
    assert_problem(response, 405)
    assert "allow" in response.headers


@pytest.mark.asyncio
async def test_an_invalid_body_is_refused_with_the_name_of_the_field(
    client: httpx2.AsyncClient,
) -> None:
    for body, field in INVALID_EVENTS:
        response = await post_bytes(client, body)
        assert_problem(response, 422)
        fields = [error["field"] for error in response.json()["errors"]]
        assert fields == [field], body


@pytest.mark.asyncio
async def test_a_body_that_is_not_json_is_a_problem_of_the_client(
    client: httpx2.AsyncClient,
) -> None:
    for reason, body in NOT_JSON.items():
        response = await post_bytes(client, body)
        assert response.status_code in (400, 422), reason
        assert_problem(response, response.status_code)


@pytest.mark.asyncio
async def test_an_invalid_path_is_refused(client: httpx2.AsyncClient) -> None:
    for path in INVALID_PATHS:
        assert_problem(await client.get(path), 422)


# --- Health checks


@pytest.mark.asyncio
async def test_a_working_server_is_healthy_and_ready(
    client: httpx2.AsyncClient,
) -> None:
    for path in ["/healthz", "/readyz"]:
        response = await client.get(path)
        assert response.status_code == 200
        assert response.json() == {"status": "ok"}
