"""What a training promises: it is exact, saved, watched, and stopped without loss."""

import asyncio
import errno
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import Popen
from unittest.mock import create_autospec
from xml.etree import ElementTree

import aiohttp
import cyclopts
import numpy as np
import pytest

from training.app import (
    Checkpoint,
    draw,
    fit,
    main,
    serve,
    train,
)

Main = Callable[..., Coroutine[None, None, int]]
Fork = type[BaseProcess]
BATCH = 500  # fewer steps an epoch than by default, to be fast
START = Checkpoint(batch=BATCH)


def after(epochs: int, seed: int = 0) -> Checkpoint:
    """A small checkpoint after so many epochs."""
    history = [(1 / n, 1 - 1 / n) for n in range(1, epochs + 1)]
    return Checkpoint(seed, BATCH, history, [np.eye(2), np.ones(3)] if history else [])


class Puppet:
    """A worker that does what the test says: a process that is a mock, and its end of
    the pipe.
    """

    def __init__(self) -> None:
        self.by = create_autospec(BaseProcess)
        self.process = self.by.return_value
        self.process.configure_mock(pid=None, exitcode=None)
        self.process.start.side_effect = self.start
        self.process.kill.side_effect = lambda: self.die(-9)
        self.sends: list[Checkpoint] = []
        self.pipe: Connection | None = None
        self.starting, self.may_start = threading.Event(), threading.Event()
        self.may_start.set()

    def start(self) -> None:
        self.starting.set()
        self.may_start.wait(5)
        theirs = self.by.call_args.kwargs["args"][0]
        self.pipe = Connection(os.dup(theirs.fileno()), readable=False)
        for checkpoint in self.sends:
            self.pipe.send(checkpoint)
        self.process.pid = 1  # from now on it can be killed

    def die(self, code: int) -> None:
        if self.pipe and not self.pipe.closed:
            self.pipe.close()
            self.process.exitcode = code


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    """A worker for the test to play."""
    puppet = Puppet()
    yield puppet
    puppet.die(0)


async def resumed(path: Path, start: Checkpoint = START) -> Checkpoint:
    """Return the checkpoint in `path`, made with the settings of `start`."""
    return await asyncio.to_thread(start.resume, path)


async def trained(epochs: int, path: Path, by: Fork) -> list[int]:
    """Train on from `path`; return at which epochs it was seen."""
    start = await resumed(path)
    return [
        len(checkpoint.history) async for checkpoint in train(start, epochs, path, by)
    ]


def content(path: Path) -> bytes | None:
    """Return what is in the file, None if there is none."""
    return path.read_bytes() if path.exists() else None


# Exact: the same weights, bit for bit, whatever comes in between.


@pytest.mark.asyncio
async def test_epochs_arrive_one_by_one_and_the_loss_falls(
    path: Path, fork: Fork
) -> None:
    seen = [checkpoint async for checkpoint in train(START, 3, path, fork)]
    assert [len(checkpoint.history) for checkpoint in seen] == [0, 1, 2, 3]
    losses = [loss for loss, _ in seen[-1].history]
    assert losses == sorted(losses, reverse=True)
    assert seen[-1].history[:2] == seen[-2].history


@pytest.mark.asyncio
async def test_a_second_run_ends_with_the_very_bytes_of_an_unbroken_one(
    path: Path, fork: Fork, finished: Path
) -> None:
    assert await trained(2, path, fork) == [0, 1, 2]
    assert await trained(5, path, fork) == [2, 3, 4, 5]
    assert content(path) == content(finished)


@pytest.mark.asyncio
async def test_a_training_stopped_again_and_again_ends_with_the_same_bytes(
    path: Path, fork: Fork, finished: Path
) -> None:
    async def stop_when_up() -> None:
        async with asyncio.timeout(None) as limit:
            async for _ in train(await resumed(path), 1000, path, fork):
                limit.reschedule(0)

    for stops in (1, 2, 3):
        with pytest.raises(TimeoutError):
            await stop_when_up()
        assert len((await resumed(path)).history) == stops
    await trained(5, path, fork)
    assert content(path) == content(finished)


@pytest.mark.asyncio
async def test_a_worker_killed_in_its_work_is_an_error_and_costs_an_epoch_at_most(
    path: Path, fork: Fork, finished: Path
) -> None:
    async def kill_after_two() -> None:
        async for checkpoint in train(START, 1000, path, fork):
            if len(checkpoint.history) == 2:
                [worker] = multiprocessing.active_children()
                worker.kill()
                await asyncio.to_thread(
                    worker.join
                )  # dying, it may still fill what a read frees

    with pytest.raises(ChildProcessError, match=r"^the worker died: exit code -9$"):
        await kill_after_two()
    assert len((await resumed(path)).history) in (2, 3)
    await trained(5, path, fork)
    assert content(path) == content(finished)


@pytest.mark.asyncio
async def test_a_finished_training_is_not_trained_any_further(
    path: Path, fork: Fork, finished: Path
) -> None:
    shutil.copyfile(finished, path)
    assert await trained(5, path, fork) == []
    assert await trained(3, path, fork) == []
    assert content(path) == content(finished)


@pytest.mark.parametrize(
    "other",
    [
        Checkpoint(seed=1, batch=BATCH),
        Checkpoint(batch=BATCH - 100),
        Checkpoint(batch=0),
    ],
)
@pytest.mark.asyncio
async def test_another_seed_or_batch_gives_another_model(
    path: Path, fork: Fork, finished: Path, other: Checkpoint
) -> None:
    *_, last = [checkpoint async for checkpoint in train(other, 1, path, fork)]
    assert last.history[0] != tuple((await resumed(finished)).history[0])
    again = await resumed(path, other)
    assert [*map(tuple, again.history)] == last.history


def test_the_defaults_get_93_percent_right_in_five_epochs_of_a_spawned_worker(
    defaults: tuple[Popen[bytes], Path],
) -> None:
    process, told = defaults
    assert process.wait() == 0, told.read_text()
    accuracy = re.search(
        r"^accuracy (0\.\d{4}) on held-out digits", told.read_text(), re.M
    )
    assert accuracy
    assert float(accuracy[1]) >= 0.93


# Stopped: what is in hand is finished and saved, and no worker stays behind.


@pytest.mark.asyncio
async def test_a_cancellation_waits_for_the_epoch_in_hand_and_saves_it(
    path: Path, puppet: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    puppet.sends = [after(0), after(1)]
    first = asyncio.Event()

    async def watch() -> None:
        async with aclosing(train(START, 9, path, puppet.by)) as run:
            async for checkpoint in run:
                if checkpoint.history:
                    first.set()

    watching = asyncio.create_task(watch())
    await first.wait()
    watching.cancel()
    await asyncio.sleep(0)
    puppet.process.kill.assert_not_called()
    assert puppet.pipe
    puppet.pipe.send(after(2))
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert len((await resumed(path)).history) == 2
    assert caplog.messages == [f"2 of 9 epochs are in {path}"]
    puppet.process.kill.assert_called_once_with()
    puppet.process.join.assert_called_with()


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.asyncio
async def test_a_worker_that_is_not_up_is_killed_as_soon_as_it_can_be(
    path: Path, puppet: Puppet, started: bool
) -> None:
    if not started:
        puppet.may_start.clear()
    watching = asyncio.create_task(trained(9, path, puppet.by))
    await asyncio.to_thread(puppet.starting.wait, 5)
    watching.cancel()
    await asyncio.sleep(0)
    puppet.may_start.set()
    with pytest.raises(asyncio.CancelledError):
        await watching
    puppet.process.kill.assert_called_with()
    assert content(path) is None


@pytest.mark.asyncio
async def test_whoever_leaves_early_leaves_no_worker_behind(
    path: Path, fork: Fork
) -> None:
    async with aclosing(train(START, 1000, path, fork)) as run:
        async for checkpoint in run:
            if checkpoint.history:
                break
    assert multiprocessing.active_children() == []
    assert len((await resumed(path)).history) == 1


@pytest.mark.asyncio
async def test_a_training_can_be_cancelled_at_each_of_its_awaits(
    path: Path, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    puppets: list[Puppet] = []

    async def run() -> None:
        puppets.append(Puppet())
        puppets[-1].sends = [after(0), after(1), after(2)]
        await trained(2, path, puppets[-1].by)

    def check() -> None:
        assert puppets[-1].pipe is None or puppets[-1].pipe.closed or path.exists()
        path.unlink(missing_ok=True)

    assert await cancel_everywhere(run, check) >= 3
    puppets[-1].die(0)


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"]
)
@pytest.mark.asyncio
async def test_the_mask_that_keeps_signals_from_the_worker_stays_out_of_this_thread(
    path: Path, puppet: Puppet, signum: signal.Signals
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no such signals")
    masks: list[set[int]] = []
    start = puppet.process.start.side_effect

    def record() -> None:
        masks.append({int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        start()

    puppet.process.start.side_effect = record
    puppet.sends = [after(0), after(1)]
    assert await trained(1, path, puppet.by) == [0, 1]
    assert signum in masks[0]
    assert signum not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
@pytest.mark.asyncio
async def test_a_ctrl_c_that_reaches_the_worker_as_well_does_not_disturb_it(
    path: Path, fork: Fork, finished: Path
) -> None:
    async for _ in train(START, 5, path, fork):
        for worker in multiprocessing.active_children():
            assert worker.pid
            with suppress(
                ProcessLookupError
            ):  # after the last epoch it may just have gone
                os.kill(worker.pid, signal.SIGINT)
    assert content(path) == content(finished)


def test_a_worker_whose_parent_is_gone_ends_by_itself(fork: Fork) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    worker = fork(target=fit, args=(theirs, Checkpoint(), 100_000))
    worker.start()
    theirs.close()
    ours.recv()
    ours.close()
    worker.join(5)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [(64, 64), (64, 10), 64],
        [(64, 64), (64, 10), 64, 10, 10],
        [1, 1, 1, 1],
        [(65, 64), 1],
    ],
    ids=["none", "one_lacks", "one_too_many", "broadcast", "other_shape"],
)
@pytest.mark.asyncio
async def test_weights_of_another_model_are_refused(
    path: Path, fork: Fork, shapes: list[int | tuple[int, ...]]
) -> None:
    run = train(replace(after(1), weights=[*map(np.ones, shapes)]), 2, path, fork)
    with pytest.raises(ChildProcessError, match=r"^the worker died: exit code 1$"):
        await anext(run)
    assert content(path) is None


@pytest.mark.asyncio
async def test_a_worker_that_cannot_be_started_is_an_error_with_its_cause(
    path: Path, fork: Fork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: BaseProcess) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(BaseProcess, "start", start)
    with pytest.raises(OSError, match="Too many open files"):
        await trained(1, path, fork)


@pytest.mark.asyncio
async def test_a_worker_killed_while_it_sends_is_an_error_with_its_cause(
    path: Path, puppet: Puppet
) -> None:
    def send_half() -> None:
        puppet.start()
        assert puppet.pipe
        os.write(puppet.pipe.fileno(), struct.pack("!i", 1000) + b"half of it")
        puppet.die(-9)

    puppet.process.start.side_effect = send_half
    with pytest.raises(ChildProcessError, match=r"^the worker died: exit code -9$"):
        await trained(9, path, puppet.by)


@pytest.mark.asyncio
async def test_a_checkpoint_that_cannot_be_saved_ends_the_training(
    tmp_path: Path, puppet: Puppet
) -> None:
    puppet.sends = [after(0)]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        await trained(9, tmp_path / "file" / "digits.npz", puppet.by)
    puppet.process.kill.assert_called_with()


# Saved: all or nothing, and nothing of others is ever overwritten.


@pytest.mark.parametrize("name", ["digits.npz", "digits.svg", "runs/today/digits"])
def test_what_is_saved_is_what_is_resumed(tmp_path: Path, name: str) -> None:
    saved, path = after(3, seed=7), tmp_path / name
    saved.save(path)
    resumed = Checkpoint(7, BATCH).resume(path)
    assert (resumed.seed, resumed.batch) == (7, BATCH)
    assert [*map(tuple, resumed.history)] == saved.history
    assert all(map(np.array_equal, resumed.weights, saved.weights))
    assert sorted(path.parent.iterdir()) == [path, path.with_name(f"{path.name}.svg")]


def test_two_runs_that_save_to_one_file_at_a_time_do_not_meet(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(_: int) -> None:
        monkeypatch.undo()
        after(2).save(path)

    monkeypatch.setattr(os, "fsync", meanwhile)
    after(1).save(path)
    assert [*START.resume(path).history] == after(1).history


def test_what_cannot_be_saved_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        after(1).save(path)
    assert list(path.parent.iterdir()) == []


def test_any_batch_size_that_is_taken_can_be_resumed(path: Path) -> None:
    cli = cyclopts.App(print_error=False, exit_on_error=False)
    cli.default(main)
    for size in (2**32, -1):
        with pytest.raises(cyclopts.ValidationError):
            cli.parse_args(["--batch-size", str(size)])
    most = cli.parse_args(["--batch-size", str(2**32 - 1)])[1].kwargs["batch_size"]
    Checkpoint(batch=most).save(path)
    assert Checkpoint(batch=most).resume(path).batch == 2**32 - 1


def test_without_a_file_a_training_starts_anew(path: Path) -> None:
    start = Checkpoint(seed=3)
    assert start.resume(path) is start


def packed(**arrays: object) -> bytes:
    """Return an .npz file with these arrays."""
    file = BytesIO()
    np.savez(file, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"Dear diary,",
    "pickle": pickle.dumps(Checkpoint()),
    "other_arrays": packed(x=[1, 2]),
    "objects": packed(seed=0, batch=BATCH, history=np.array([print])),
    "flat_history": packed(seed=0, batch=BATCH, history=[1, 0.5], arr_0=[1]),
    "deep_history": packed(seed=0, batch=BATCH, history=[[1, 0.5, 1]], arr_0=[1]),
    "no_weights": packed(seed=0, batch=BATCH, history=[[1, 0.5]]),
    "other_names": packed(seed=0, batch=BATCH, history=[[1, 0.5]], weights=[1]),
    "no_number": packed(seed="zero", batch=BATCH, history=[]),
    "half": packed(seed=0, batch=BATCH, history=[])[:300],
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_file_that_is_no_checkpoint_is_kept_aside(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(
        FileExistsError, match="no sound checkpoint: kept as"
    ) as refusal:
        START.resume(path)
    aside = Path(str(refusal.value).rpartition(" ")[2])
    assert aside.read_bytes() == content
    assert list(path.parent.iterdir()) == [aside]


def test_no_flipped_bit_is_taken_for_a_weight(path: Path) -> None:
    after(2).save(path)
    sound, refused = path.read_bytes(), 0
    for at in range(0, len(sound), 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 16]) + sound[at + 1 :])
        try:
            resumed = START.resume(path)
        except FileExistsError:
            refused += 1
        else:
            assert [*map(tuple, resumed.history)] == after(2).history
            assert all(map(np.array_equal, resumed.weights, after(2).weights))
    assert refused > len(sound) / 7 / 2
    assert len(list(path.parent.glob("*.refused-*"))) == refused


def test_a_checkpoint_of_other_settings_is_refused_and_stays(path: Path) -> None:
    after(1, seed=7).save(path)
    with pytest.raises(
        FileExistsError, match=f"goes with --seed 7 --batch-size {BATCH}$"
    ):
        START.resume(path)
    assert Checkpoint(7, BATCH).resume(path).history


@pytest.mark.parametrize("place", [".", os.devnull], ids=["folder", "device"])
def test_a_folder_or_a_device_is_refused_and_not_moved(path: Path, place: str) -> None:
    path.symlink_to(place)
    with pytest.raises(FileExistsError, match="is not a file"):
        START.resume(path)
    assert path.readlink() == Path(place)


# Watched: over HTTP, as a curve, in lines.


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 1.0, 0.5]], ids=len)
def test_the_curve_is_an_image_with_a_point_an_epoch(losses: list[float]) -> None:
    image = ElementTree.fromstring(draw(losses))  # noqa: S314 - our own
    points = [
        tuple(map(float, p.split(","))) for p in image[2].attrib["points"].split()
    ]
    assert points == [(n * 250.0, 300 - 150 * loss) for n, loss in enumerate(losses)]
    assert f"epochs 1 to {len(losses)}" in "".join(image.itertext())


@pytest.mark.asyncio
async def test_status_and_health_are_answered_and_nothing_else_is(
    session: aiohttp.ClientSession,
) -> None:
    status = {"state": "starting", "epoch": 0}
    async with serve(status, 0) as url:
        for path in ("/status", "/healthz"):
            status["epoch"] += 1  # type: ignore[operator]
            async with session.get(url + path) as response:
                assert (response.status, await response.json()) == (200, status)
        async with session.get(f"{url}/") as response:
            assert response.status == 404
        async with session.post(f"{url}/status") as response:
            assert response.status == 405
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(f"{url}/status")


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has more than one loopback address"
)
@pytest.mark.asyncio
async def test_nobody_outside_this_machine_is_answered() -> None:
    async with serve({}, 0) as url:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", int(url.rpartition(":")[2]))


@pytest.mark.asyncio
async def test_clients_that_say_nothing_hold_nothing_up() -> None:
    async with serve({}, 0) as url:
        host, port = url.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
        idle[0][1].write(b"GET /status HTTP/1.1\r\n")
        async with aiohttp.request("GET", f"{url}/healthz") as response:
            assert response.status == 200
    for reader, writer in idle:
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_does_not_read_its_answer_is_not_waited_for() -> None:
    async with serve({"state": "x" * 10**7}, 0) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b"GET /status HTTP/1.1\r\nHost: here\r\n\r\n")
        await reader.read(1)
        since = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - since < 5
    writer.transport.abort()


@pytest.mark.asyncio
async def test_a_training_is_told_in_lines_and_over_http(
    path: Path,
    fast_main: Main,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setitem(main.__globals__, "print", told.put_nowait)
    training = asyncio.create_task(
        fast_main(epochs=300, batch_size=BATCH, checkpoint=path)
    )
    url = (await told.get()).removeprefix("status: ")
    line = await told.get()
    async with session.get(url) as response:
        status = await response.json()
    assert (status["state"], status["epochs"]) == ("training", 300)
    match = re.fullmatch(r"epoch   1/300  loss (\d\.\d{4})  accuracy (0\.\d{4})", line)
    assert match
    assert status["loss"] <= float(match[1]) + 0.001
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert len((await resumed(path)).history) >= status["epoch"]


@pytest.mark.asyncio
async def test_a_finished_run_tells_its_accuracy(
    path: Path, fast_main: Main, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(finished, path)
    assert await fast_main(epochs=5, batch_size=BATCH, checkpoint=path) == 0
    accuracy = (await resumed(finished)).history[-1][1]
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        f"accuracy {accuracy:.4f} on held-out digits; model and curve: {path}"
    )
    assert err == ""


@pytest.mark.asyncio
async def test_what_stands_in_the_way_is_told_in_one_line(
    path: Path, failing_args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing_args == ["--checkpoint", str(path)]
    assert await main(checkpoint=path) == 1
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        assert await main(checkpoint=path, status_port=somebody.getsockname()[1]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r".* is no sound checkpoint: .*\n.* address already in use\n", err
    )
