"""The starters' suites test something: break one promise of a program, and the test of that promise turns red."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, tool

# starter, what is broken, the line of app.py as it is, and as it is broken, the tests that notice
MUTATIONS = [
    ("api_client", "no bound on requests", "range(min(concurrency, count))", "range(count)", "as_many_requests"),
    ("api_client", "no limit for one try", "asyncio.timeout(self.timeout), ", "", "failures_are_one_line"),
    ("api_client", "no retry", "attempts=self.attempts, timeout=None", "attempts=1, timeout=None", "trouble_that_may"),
    ("api_client", "no deadline", "asyncio.timeout(deadline), ", "", "the_deadline_ends"),
    ("api_client", "no bound on an answer", "while len(body) <= LARGEST and (", "while (", "without_end"),
    ("api_client", "no await", "await on_fact(fact)", "on_fact(fact)", "slow_consumer"),
    ("media", "a bomb is decoded", 'simplefilter("error", Image', 'simplefilter("ignore", Image', "bad_ones_named"),
    ("media", "no second try", "for _ in range(2):", "for _ in range(1):", "gets_a_new_one"),
    ("media", "half a file stays", "make(source, drafts, size)", "make(source, outputs, size)", "makes_none_if"),
    ("downloads", "a name may leave the folder", '{*name} & {*"/\\\\"}', "False", "not_safe"),
    ("downloads", "no retry", "attempts=self.attempts, timeout=None", "attempts=1, timeout=None", "what_may_pass"),
    ("downloads", "half a file stays", "        undo()\n", "", "in_the_middle_of_a_body"),
    ("downloads", "one file replaces another", "owners.setdefault(text, url)", "url", "two_urls_with_one"),
    ("downloads", "a part is taken for a file", "response.status != 200", "response.status < 200", "fails_in_the_end"),
    ("downloads", "what is there comes again", '["size"] == size', '["size"] is None', "second_run_gets_only"),
    ("jobs", "no bound on tasks", "Semaphore(concurrency)", "Semaphore(99)", "as_many_tasks_run"),
    ("jobs", "results are lost", "max_stored_results=places", "max_stored_results=2", "hundreds_of_results"),
    ("jobs", "no retry", "attempts=attempts, timeout=None", "attempts=1, timeout=None", "is_tried_again"),
    ("jobs", "a failure goes untold", "return min(len(failed), 1)", "return 0", "cannot_be_read"),
    ("jobs", "no end of what is begun", "suppress(asyncio.CancelledError)", "suppress(OSError)", "told_to_stop"),
    ("training", "another order after a resume", "default_rng([start.seed, epoch])", "default_rng()", "very_bytes"),
    ("training", "a broken file is overwritten", "aside = path.rename(", "aside = path.with_name(", "kept_aside"),
    ("training", "nothing is saved", "checkpoint.save(path)", "None", "stopped_again_and_again"),
    ("chat", "pages of other sites may enter", "[2] != request.host", '[2] == ""', "another_site"),
    (
        "chat",
        "no bound on an outbox",
        "get_write_buffer_size() <= self.outbox",
        "get_write_buffer_size() >= 0",
        "does_not_read",
    ),
    ("chat", "no bound on the rate", "times[-1] - times[0] < 1", "times[-1] < times[0]", "too_many_messages"),
    ("chat", "no goodbye", "app.on_shutdown.append(self._drain)", "app.on_shutdown.clear()", "sends_everybody_away"),
    ("database", "money is made", "balance >= 0", "balance >= -1e15", "goes_below_zero"),
    ("database", "a reference counts twice", "unique=True", "unique=False", "a_duplicate_is_refused"),
    ("database", "accounts in any order", "changes = sorted(", "changes = list(", "transfers_that_cross"),
    ("database", "connections that fight", "pool_size=1 if lite else pool", "pool_size=pool", "never_exhausted"),
    ("database", "no time limit", "asyncio.timeout(self.patience), ", "", "waits_too_long"),
    ("etl", "no place is saved", ", (CURSORS, [place])", "", "killed_again"),
    ("etl", "rejects are forgotten", '"" if last.mark else name', "name", "goes_on_with_the_page"),
    ("etl", "no second try", "(429, 500, 502, 503, 504)", "()", "trouble_that_may"),
    ("etl", "no bound on a queue", "max(1, buffer)", "0", "slows_down_those"),
    ("etl", "a short row is loaded", "fields, strict=True", "fields, strict=False", "bad_lines_are_rejected"),
]


@pytest.mark.parametrize(
    ("starter", "old", "new", "noticed"),
    [
        pytest.param(starter, *rest, marks=pytest.mark.xdist_group(f"{starter}-auto"), id=f"{starter}: {promise}")
        for starter, promise, *rest in MUTATIONS
    ],
)
def test_a_broken_promise_turns_the_suite_red(
    project: Callable[[str, str], Path], run: Run, starter: str, old: str, new: str, noticed: str
) -> None:
    folder = project(starter, "auto")
    (app,) = folder.glob("src/*/app.py")
    sound = app.read_text(encoding="utf-8")
    assert sound.count(old) == 1, "the mutation no longer fits the program"
    app.write_text(sound.replace(old, new), encoding="utf-8")
    try:
        told = run(folder, tool(folder, "pytest"), "-q", "-x", "-k", noticed, "--timeout=20", status=1)
    finally:
        app.write_text(sound, encoding="utf-8")
    assert "failed" in told or "error" in told
