from tests.worker.cli.scene import START, ended, line, lost_attempt, queued, started
from worker.cli.live_view import LiveView
from worker.cli.paint import Paint


def test_a_jobs_life_reads_from_top_to_bottom() -> None:
    view = LiveView(START)
    lines = [
        *view.status(queued(workers=0), START),
        *view.status(queued(workers=1, ahead=2), START + 1),
        *view.status(started(why="image python:3.12 is being pulled", stage="waiting"), START + 2),
        *view.log(line("db", b"ready to accept connections"), START + 2.5),
        *view.status(started(stage="checkout"), START + 3),
        *view.log(line("checkout", b"[dynapod] cloned"), START + 3.3),
        *view.log(line("db", b"checkpoint"), START + 4),
        *view.log(line("run", b"[dynapod] step test"), START + 5),
        *view.log(line("run", b"\x1b[32mok\x1b[0m \xff"), START + 6),
        *view.log(line("run", b"[dynapod] 12 bytes were lost", notice=True), START + 6),
        *view.log(line("upload", b"[dynapod] uploaded"), START + 70),
        *view.status(ended(), START + 71),
    ]
    assert (
        "\n".join(lines)
        == """\
... waiting for a worker: none serves queue 'jobs'
... waiting in queue 'jobs': 2 jobs ahead
... waiting: image python:3.12 is being pulled
==> services  at 2.5 s
db | ready to accept connections
==> checkout  at 3.3 s
[dynapod] cloned
db | checkpoint
==> run  at 5.0 s
[dynapod] step test
ok \ufffd
!!! run: [dynapod] 12 bytes were lost
==> upload  at 1 min 10 s
[dynapod] uploaded"""
    )


def test_another_attempt_says_how_the_one_before_ended() -> None:
    view = LiveView(START)
    view.status(started(stage="run"), START)
    view.log(line("run", b"a"), START)
    assert view.status(started(attempt=2, stage="run", attempts=(lost_attempt(),)), START + 65) == [
        "==> attempt 2: attempt 1 ended: The node n1 is gone.  at 1 min 05 s"
    ]
    assert view.log(line("run", b"b"), START + 66) == ["==> run  at 1 min 06 s", "b"]


def test_where_a_progress_line_is_rewritten_waiting_takes_no_line_of_its_own() -> None:
    view = LiveView(START, progress_line=True)
    assert view.status(queued(workers=1, ahead=1), START) == []
    assert view.progress(START + 3) == "... waiting in queue 'jobs': 1 job ahead (3.0 s)"
    view.status(started(stage="run", since=START + 4), START + 4)
    assert view.progress(START + 9) == "... run (5.0 s)"
    view.status(ended(), START + 10)
    assert view.progress(START + 11) == ""


def test_colours_mark_headings_and_steps() -> None:
    view = LiveView(START, Paint(colours=True))
    assert view.log(line("run", b"[dynapod] step a"), START) == [
        "\x1b[1;36m==> run\x1b[0m\x1b[2m  at 0.0 s\x1b[0m",
        "\x1b[1m[dynapod] step a\x1b[0m",
    ]


def test_a_job_cannot_draw_over_the_view() -> None:
    lines = LiveView(START, Paint(colours=True)).log(line("run", b"\x1b[2J\x1b[H[dynapod] step forged"), START)
    assert lines[1:] == ["[dynapod] step forged"]


def test_timestamps_stand_before_every_line() -> None:
    view = LiveView(START, timestamps=True)
    assert view.log(line("run", b"a\rb", timestamp="T"), START)[1:] == ["T a", "T b"]
