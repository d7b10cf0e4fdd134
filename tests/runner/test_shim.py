import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from runner.shell import install, is_static
from runner_spec import anatomy
from runner_spec.report import RunReport, parse_report
from runner_spec.steps import DEFAULTS, entered, steps_fragment
from tests.runner.shells import BUSYBOX, SHELLS, SHIM, Shim


@pytest.fixture(params=SHELLS, ids=[name for name, _, _ in SHELLS])
def shim(request: pytest.FixtureRequest, tmp_path: Path) -> Shim:
    _, shell, busybox = request.param
    return Shim(tmp_path, shell, busybox=busybox)


def wait_for_line(process: subprocess.Popen[bytes], expected: str) -> str:
    """The output up to a line that holds `expected`."""
    assert process.stdout
    seen = b""
    deadline = time.monotonic() + 30
    while expected.encode() not in seen:
        assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], seen
        data = os.read(process.stdout.fileno(), 4096)
        assert data, seen
        seen += data
    return seen.decode()


def outlives(pids: Iterable[int]) -> list[int]:
    """Those that still run: a process that was just killed needs a moment to die, so their end is waited for."""
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if alive(pid) and not select.select([descriptor], [], [], 5)[0]:
                left.append(pid)
        finally:
            os.close(descriptor)
    return left


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_steps_run_in_order_with_headings_exit_codes_and_times(shim: Shim) -> None:
    ran = shim.run([("one", "echo first"), ("two", "echo second >&2")])
    assert ran.code == 0
    assert [re.sub(r"\d+\.\d\d", "T", line) for line in ran.lines] == [
        "[dynapod] step one",
        "first",
        "[dynapod] step one: exit 0 after T s",
        "[dynapod] step two",
        "second",
        "[dynapod] step two: exit 0 after T s",
    ]
    assert ran.exit_file == "0\n"
    assert (ran.report.reason, [(s.name, s.exit, s.after) for s in ran.report.steps]) == (
        "ok",
        [("one", 0, False), ("two", 0, False)],
    )


def test_the_first_failing_step_ends_the_steps_and_gives_the_exit_code(shim: Shim) -> None:
    ran = shim.run([("a", "true"), ("b", "exit 3"), ("c", "echo never")])
    assert (ran.code, ran.exit_file, ran.report.reason) == (3, "3\n", "step")
    assert "never" not in ran.output
    assert [step.name for step in ran.report.steps] == ["a", "b"]


def test_a_script_stops_at_its_first_failing_command(shim: Shim) -> None:
    assert shim.run([("a", "false\necho never")]).lines[1:2] != ["never"]


def test_a_step_killed_by_a_signal_is_reported_as_128_and_its_number(shim: Shim) -> None:
    ran = shim.run([("a", "kill -9 $$")])
    assert (ran.code, ran.report.reason) == (137, "step")


def test_after_steps_run_after_success_and_after_failure(shim: Shim) -> None:
    ran = shim.run([("a", "exit 4")], [("x", "echo cleaned; exit 7"), ("y", "echo too")])
    assert (ran.code, ran.report.reason) == (4, "step")
    assert "cleaned" in ran.lines
    assert "too" in ran.lines
    assert [(s.name, s.exit, s.after) for s in ran.report.steps] == [("a", 4, False), ("x", 7, True), ("y", 0, True)]


def test_a_failing_after_step_fails_a_job_that_had_succeeded(shim: Shim) -> None:
    ran = shim.run([("a", "true")], [("x", "exit 7")])
    assert (ran.code, ran.exit_file, ran.report.reason) == (7, "7\n", "step")


def test_the_timeout_ends_the_step_with_term_and_the_job_with_124(shim: Shim) -> None:
    ran = shim.run([("a", "trap 'echo got TERM; exit 9' TERM\nsleep 30 & wait")], [("x", "echo cleaned")], timeout=0.3)
    assert (ran.code, ran.exit_file, ran.report.reason) == (124, "124\n", "timeout")
    assert "got TERM" in ran.lines
    assert "cleaned" in ran.lines
    assert ran.step("a") == 9
    assert ran.report.message == "the job exceeded its timeout of 0.30 s"


def test_a_step_that_ignores_term_is_killed_after_the_grace_period(shim: Shim) -> None:
    began = time.monotonic()
    ran = shim.run([("a", "trap '' TERM\nwhile :; do sleep 1; done")], [("x", "echo cleaned")], timeout=0.3, grace=0.4)
    assert 0.6 < time.monotonic() - began < 15
    assert (ran.code, ran.step("a"), ran.report.reason) == (124, 137, "timeout")
    assert "cleaned" in ran.lines


def test_a_step_that_exits_0_when_told_to_stop_is_still_a_timeout(shim: Shim) -> None:
    ran = shim.run([("a", "trap 'exit 0' TERM\nsleep 30 & wait"), ("b", "echo never")], timeout=0.3)
    assert (ran.code, ran.report.reason) == (124, "timeout")
    assert "never" not in ran.lines


def test_the_timeout_covers_all_steps_together(shim: Shim) -> None:
    ran = shim.run([("a", "sleep 0.4"), ("b", "sleep 30")], timeout=0.6)
    assert (ran.code, ran.step("a"), ran.step("b")) == (124, 0, 143)
    assert sum(step.seconds for step in ran.report.steps) < 10


def test_a_forged_deadline_signal_does_not_shorten_the_timeout(shim: Shim) -> None:
    ran = shim.run([("a", "kill -USR1 $PPID; kill -USR2 $PPID; sleep 0.2; echo unharmed")])
    assert ran.code == 0
    assert "unharmed" in ran.lines


def test_the_deadline_stands_when_the_job_kills_the_timer(shim: Shim) -> None:
    script = """
    for stat in /proc/[0-9]*/stat; do
        read -r pid name state parent rest <"$stat" || continue
        if [ "$parent" = "$PPID" ] && [ "$pid" != $$ ]; then
            for child in /proc/[0-9]*/stat; do
                read -r inner name state middle rest <"$child" || continue
                if [ "$middle" = "$pid" ] && [ "$name" != "(cat)" ]; then kill -9 "$inner"; fi
            done
        fi
    done 2>/dev/null
    sleep 30"""
    ran = shim.run([("a", script)], timeout=1)
    assert (ran.code, ran.report.reason) == (124, "timeout")


def test_sigterm_cancels_the_step_runs_after_steps_and_exits_143(shim: Shim) -> None:
    process = shim.start([("a", "echo started; sleep 30"), ("b", "echo never")], [("x", "echo cleaned")])
    wait_for_line(process, "started")
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert (ran.code, ran.exit_file, ran.report.reason) == (143, "143\n", "canceled")
    assert "cleaned" in ran.lines
    assert "never" not in ran.lines
    assert ran.step("a") == 143


def test_sigterm_reaches_the_whole_group_of_the_step(shim: Shim) -> None:
    process = shim.start([("a", "sleep 31 & echo pid $!; sleep 32 & echo pid $!; echo started; wait")])
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", wait_for_line(process, "started"))]
    assert all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGTERM)
    assert shim.finish(process).code == 143
    assert outlives(pids) == []


def test_a_group_that_ignores_sigterm_is_killed_after_the_grace_period(shim: Shim) -> None:
    process = shim.start(
        [("a", "trap '' TERM; sleep 31 & echo pid $!; echo started; while :; do sleep 1; done")], grace=0.4
    )
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", wait_for_line(process, "started"))]
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert (ran.code, ran.step("a")) == (143, 137)
    assert outlives(pids) == []


def test_a_second_sigterm_does_not_stop_the_after_steps(shim: Shim) -> None:
    process = shim.start([("a", "echo started; sleep 30")], [("x", "echo cleaning; sleep 0.4; echo cleaned")])
    wait_for_line(process, "started")
    process.send_signal(signal.SIGTERM)
    wait_for_line(process, "cleaning")
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert ran.code == 143
    assert "cleaned" in ran.lines


def test_a_cancellation_during_after_steps_lets_them_end_and_is_not_a_success(shim: Shim) -> None:
    process = shim.start([("a", "true")], [("x", "echo cleaning; sleep 0.4; echo cleaned")])
    wait_for_line(process, "cleaning")
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert (ran.code, ran.report.reason, ran.step("x")) == (143, "canceled", 0)


def test_after_steps_have_a_budget_of_their_own(shim: Shim) -> None:
    ran = shim.run([("a", "true")], [("x", "sleep 30"), ("y", "echo never")], after_budget=0.3)
    assert (ran.code, ran.report.reason) == (124, "step")
    assert ran.report.message == "the after steps exceeded their budget of 0.30 s"
    assert "never" not in ran.lines


def test_an_exceeded_after_budget_does_not_hide_the_failure_before_it(shim: Shim) -> None:
    ran = shim.run([("a", "exit 5")], [("x", "sleep 30")], after_budget=0.3)
    assert (ran.code, ran.report.reason) == (5, "step")


def test_background_processes_left_by_a_step_do_not_hold_the_job(shim: Shim) -> None:
    began = time.monotonic()
    ran = shim.run([("a", "sleep 33 & echo pid $!"), ("b", "true")], grace=20)
    assert ran.code == 0
    assert time.monotonic() - began < 15
    assert outlives([int(re.findall(r"pid (\d+)", ran.output)[0])]) == []


def test_background_processes_that_ignore_term_are_killed(shim: Shim) -> None:
    ran = shim.run([("a", "(trap '' TERM; exec sleep 33) & echo pid $!")], grace=0.4)
    assert ran.code == 0
    assert outlives([int(re.findall(r"pid (\d+)", ran.output)[0])]) == []


def test_no_timer_outlives_the_shim(shim: Shim, tmp_path: Path) -> None:
    ran = shim.run(
        [("a", "true"), ("b", "exit 1")], [("x", "true")], timeout=4321, after_budget=4322, env={"MARK": str(tmp_path)}
    )
    assert ran.code == 1
    assert outlives(marked(tmp_path)) == []


def marked(mark: Path) -> list[int]:
    """Processes that have this mark among their variables."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"MARK={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_orphans_are_reaped_by_the_first_process_of_the_container(shim: Shim) -> None:
    script = "i=0; while [ $i -lt 20 ]; do (sleep 0.05 & ) ; i=$((i+1)); done; sleep 0.5; echo orphaned; sleep 30"
    process = shim.start([("a", script)], subreaper=True)
    wait_for_line(process, "orphaned")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    zombies = [pid for pid in children if not alive(int(pid))]
    process.send_signal(signal.SIGTERM)
    shim.finish(process)
    assert zombies == []


def test_a_script_larger_than_one_argument_of_execve_runs(shim: Shim) -> None:
    script = "echo begin\n" + "# padding\n" * 110_000 + "echo end of script"
    assert len(script) > 1024 * 1024
    ran = shim.run([("big", script)])
    assert ran.code == 0
    assert "end of script" in ran.lines


def test_hostile_names_and_scripts_arrive_unchanged(shim: Shim) -> None:
    name = "a'b\"c$(touch /tmp/x)`id`\\\n},{ \u00e4\U0001f600"
    text = "".join(chr(c) for c in range(1, 0x180) if c not in (10, 13)) + "\u20ac\U0001f600"
    (shim.workspace / "expected").write_text(text)
    quoted = "'" + text.replace("'", "'\\''") + "'"
    ran = shim.run(
        [(name, f'read -r line <expected || :\nactual={quoted}\n[ "$line" != "" ]\nprintf %s "$actual" >actual')]
    )
    assert ran.code == 0
    assert (shim.workspace / "actual").read_text() == text
    assert ran.report.steps[0].name == name
    assert ran.lines[0] == "[dynapod] step " + name.replace("\n", "?")


def test_a_script_with_a_hash_bang_is_run_by_its_interpreter(shim: Shim) -> None:
    ran = shim.run([("py", "#!/usr/bin/env python3\nimport sys\nprint('python', sys.version_info[0], sys.argv[1:])")])
    assert (ran.code, ran.lines[1]) == (0, "python 3 []")


def test_an_interpreter_gets_all_its_words_as_one_argument_as_the_kernel_does_it(shim: Shim) -> None:
    ran = shim.run([("two", "#! /usr/bin/env  -S python3 -I \nimport sys\nprint(sys.flags.isolated)")])
    assert (ran.code, ran.lines[1]) == (0, "1")


def test_a_missing_interpreter_fails_the_step_with_127(shim: Shim) -> None:
    ran = shim.run([("a", "#!/no/such/program\n")])
    assert (ran.code, ran.step("a")) == (127, 127)
    assert "/no/such/program" in ran.output


def test_a_step_has_an_empty_standard_input(shim: Shim) -> None:
    assert shim.run([("a", "if read -r line; then exit 1; fi")]).code == 0


def test_a_step_does_not_inherit_ignored_signals(shim: Shim) -> None:
    ran = shim.run(
        [("a", "while read -r key value; do [ $key != SigIgn: ] || echo ignored $value; done </proc/self/status")]
    )
    word, mask = ran.lines[1].split()
    # Signals 1 to 31: 32 and 33 are the C library's own, and whoever started the tests may have left them ignored.
    assert (word, int(mask, 16) & 0x7FFFFFFF) == ("ignored", 0)


def test_python_in_a_step_sees_keyboard_interrupts(shim: Shim) -> None:
    script = """#!/usr/bin/env python3
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print('interrupted')
"""
    assert "interrupted" in shim.run([("a", script)], timeout=10).lines


def test_the_jobs_variables_reach_the_steps_unchanged(shim: Shim) -> None:
    names = ["timeout", "grace", "status", "name", "pid", "count", "line", "code", "phase"]
    script = "\n".join(f'[ "${name}" = kept ]' for name in names)
    assert shim.run([("a", script), ("b", script)], env=dict.fromkeys(names, "kept")).code == 0


def test_a_report_of_many_steps_keeps_the_last_and_fits_the_message(shim: Shim) -> None:
    steps = [(f"step number {n} with a name of some length, and more", ":") for n in range(80)]
    ran = shim.run([*steps, ("the one that fails", "exit 9")], [("after", ":")])
    assert len(ran.message.encode()) <= 4096
    assert ran.code == 9
    assert [(step.name, step.exit) for step in ran.report.steps[-2:]] == [("the one that fails", 9), ("after", 0)]
    assert re.fullmatch(r"the first \d+ steps are not listed", ran.report.message)


@pytest.mark.parametrize("limit", [256, 646, 2457])
def test_a_report_keeps_to_its_share_of_the_pods_messages(shim: Shim, limit: int) -> None:
    steps = [(f"step number {n} with a name of some length", ":") for n in range(30)]
    ran = shim.run([*steps, ("bad", "exit 9")], env={"DYNAPOD_REPORT_LIMIT": str(limit)})
    assert len(ran.message.encode()) <= limit
    assert ran.report.steps[-1].name == "bad"
    listed, (dropped,) = len(ran.report.steps), re.findall(r"the first (\d+) steps", ran.report.message)
    assert listed + int(dropped) == 31


@pytest.mark.parametrize("limit", ["", "many", "-1"])
def test_a_limit_that_is_no_number_is_the_kubelets_own(shim: Shim, limit: str) -> None:
    ran = shim.run([("a", "exit 9")], env={"DYNAPOD_REPORT_LIMIT": limit})
    assert (ran.code, ran.report.steps[0].exit, ran.report.message) == (9, 9, "")


# -- keeping a failed job's container

KEPT = "[dynapod] kept: 'come' in"


def test_a_failed_job_stays_after_its_after_steps_until_it_is_told_to_end(shim: Shim) -> None:
    process = shim.start([("a", "exit 3"), ("b", "echo never")], [("x", "echo cleaned")], keep=600)
    seen = wait_for_line(process, KEPT)
    assert "cleaned" in seen
    assert not (shim.state / "exit").exists()
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert (ran.code, ran.exit_file, ran.report.reason) == (3, "3\n", "step")
    assert [(s.name, s.exit, s.after) for s in ran.report.steps] == [("a", 3, False), ("x", 0, True)]


def test_a_job_that_ran_out_of_time_stays_too(shim: Shim) -> None:
    process = shim.start([("a", "sleep 30")], timeout=0.3, keep=600)
    wait_for_line(process, KEPT)
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert (ran.code, ran.report.reason) == (124, "timeout")


def test_keeping_ends_by_itself(shim: Shim) -> None:
    began = time.monotonic()
    ran = shim.run([("a", "exit 3")], keep=1)
    assert 1 <= time.monotonic() - began < 15
    assert (ran.code, ran.report.reason, KEPT in ran.lines) == (3, "step", True)


def test_other_signals_do_not_end_the_keeping(shim: Shim) -> None:
    process = shim.start([("a", "exit 3")], keep=600)
    wait_for_line(process, KEPT)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        process.send_signal(number)
    assert process.stdout
    assert not select.select([process.stdout], [], [], 0.5)[0]  # its end would close the pipe
    process.send_signal(signal.SIGTERM)
    assert shim.finish(process).code == 3


def test_nothing_is_left_of_the_keeping(shim: Shim, tmp_path: Path) -> None:
    process = shim.start([("a", "exit 3")], keep=4321, env={"MARK": str(tmp_path)})
    wait_for_line(process, KEPT)
    process.send_signal(signal.SIGTERM)
    shim.finish(process)
    assert outlives(marked(tmp_path)) == []


def test_success_is_not_kept(shim: Shim) -> None:
    ran = shim.run([("a", "true")], [("x", "true")], keep=600)
    assert (ran.code, KEPT in ran.lines) == (0, False)


@pytest.mark.parametrize("step", ["sleep 30", "exit 3"])
def test_a_job_that_is_told_to_end_before_it_is_kept_does_not_stay(shim: Shim, step: str) -> None:
    process = shim.start([("a", f"echo started; {step}")], [("x", "echo cleaning; sleep 0.5")], keep=600)
    wait_for_line(process, "started" if "sleep" in step else "cleaning")
    process.send_signal(signal.SIGTERM)
    ran = shim.finish(process)
    assert KEPT not in ran.lines
    assert (ran.code, ran.report.reason) == ((143, "canceled") if "sleep" in step else (3, "step"))


def test_the_shims_own_failure_is_not_kept(shim: Shim) -> None:
    (shim.root / "plan" / "steps").write_text("dynapod_keep 60000 hint\ndynapod_limits 2 100 100 100\n")
    assert shim.finish(shim.launch()).code == 125


def test_a_job_that_scribbles_on_the_termination_log_does_not_break_the_report(shim: Shim) -> None:
    ran = shim.run([("a", 'echo \'{"reason":"ok"}\' >"$DYNAPOD_TERMINATION_LOG"; exit 2')])
    assert (ran.code, ran.report.reason) == (2, "step")


def test_output_that_is_not_utf_8_passes_through(shim: Shim) -> None:
    process = shim.start([("a", r"printf '\377\376\000end\n'")])
    output, _ = process.communicate(timeout=30)
    assert b"\xff\xfe\x00end\n" in output


@pytest.mark.parametrize(
    ("fragment", "problem"),
    [
        ("dynapod_limits 2 100 100 100\n", "format 2"),
        ("dynapod_limits 1 100 100 100\ndynapod_step 'a' '\"a\"' 'unterminated", "damaged"),
        ("", "no limits"),
        (None, "no steps"),
    ],
)
def test_steps_that_cannot_be_read_are_the_shims_own_failure(shim: Shim, fragment: str | None, problem: str) -> None:
    if fragment is not None:
        (shim.root / "plan" / "steps").write_text(fragment)
    ran = shim.finish(shim.launch())
    assert (ran.code, ran.exit_file, ran.report.reason) == (125, "125\n", "shim")
    assert problem in ran.report.message


def test_scripts_that_cannot_be_written_are_the_shims_own_failure(shim: Shim) -> None:
    shim.environment["DYNAPOD_STATE"] = str(shim.root / "absent")
    process = shim.start([("a", "true")])
    process.communicate(timeout=30)
    assert process.returncode == 125


def test_an_exit_code_that_cannot_be_stored_is_no_success(shim: Shim) -> None:
    (shim.state / "exit").mkdir()
    process = shim.start([("a", "true")])
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 125
    assert b"cannot write" in output
    assert '"reason":"shim"' in (shim.root / "termination").read_text()


WITHOUT_PROGRAMS = [entry for entry in SHELLS if entry[2]]


def test_with_busybox_no_program_on_path_is_needed(tmp_path: Path) -> None:
    for name, shell, busybox in WITHOUT_PROGRAMS:
        (tmp_path / name).mkdir()
        shim = Shim(tmp_path / name, shell, busybox=busybox)
        ran = shim.run(
            [("a", "echo builtin only"), ("b", "while :; do :; done")],
            [("x", "echo cleaned")],
            timeout=0.5,
            env={"PATH": ""},
        )
        assert (ran.code, ran.step("a"), ran.step("b"), ran.step("x")) == (124, 0, 143, 0)


def test_without_busybox_and_without_setsid_the_error_says_what_to_do(tmp_path: Path) -> None:
    ran = Shim(tmp_path, "/bin/sh", busybox=False).run([("a", "true")], env={"PATH": ""})
    assert (ran.code, ran.report.reason) == (125, "shim")
    assert "put busybox into the runner image" in ran.report.message


def test_it_works_in_an_image_that_has_no_file_but_dynapods_own(tmp_path: Path) -> None:
    """In a root folder that holds /dynapod, /dev and /proc only; where that is permitted, and busybox is there."""
    inside = empty_image(tmp_path)
    if inside is None:
        # Then the nearest thing: no program on PATH, and the error that says what is missing.
        ran = Shim(tmp_path / "near", "/bin/sh", busybox=False).run([("a", "true")], env={"PATH": ""})
        assert ran.code == 125
        return
    shim = [*inside, "/dynapod/bin/sh", "/dynapod/bin/shim"]
    done = subprocess.run(shim, capture_output=True, check=False, text=True, timeout=30)
    assert done.returncode == 3, done.stderr
    assert f"hello from nowhere: {SEEN}\n" in done.stdout
    assert "cleaned" in done.stdout
    assert (tmp_path / "image/dynapod/state/exit").read_text() == "3\n"
    report = parse_report(RunReport, (tmp_path / "image/dev/termination-log").read_text())
    assert report is not None
    assert [(step.name, step.exit) for step in report.steps] == [("a", 3), ("b", 0)]
    # Who comes in by `kubectl exec` sees the same, in the place of the command's own process.
    command = ["/dynapod/bin/sh", "-c", f'echo {SHOW}; exit "$1"', "x", "7"]
    entering = subprocess.run([*inside, *entered(command)], capture_output=True, check=False, text=True, timeout=30)
    assert (entering.returncode, entering.stdout, entering.stderr) == (7, f"{SEEN}\n", "")


# What the image sets does not count: neither for the shim nor for what a description would have to set.
OF_THE_IMAGE = [*(f"DYNAPOD_{name}=/image" for name in ("BIN", "PLAN", "STATE", "WORKSPACE", "JOB")), "CI=image"]
SHOW = '"$DYNAPOD_JOB|$DYNAPOD_BIN|$DYNAPOD_PLAN|$DYNAPOD_STATE|$DYNAPOD_TERMINATION_LOG|$GIT_CONFIG_VALUE_0|$CI|$MINE"'
SEEN = "it's|/dynapod/bin|/dynapod/plan|/dynapod/state|/dev/termination-log|/workspace|true|kept"


def empty_image(root: Path) -> list[str] | None:
    """What runs a command there, as in a container of a pod; None where this machine does not permit it."""
    image = root / "image"
    (root / "near").mkdir()
    if not is_static(BUSYBOX):
        return None
    for name in ("dynapod/bin", "dynapod/state", "dynapod/plan", "proc", "dev"):
        (image / name).mkdir(parents=True)
    for name in ("null", "termination-log"):
        (image / "dev" / name).touch()
    install(image / "dynapod/bin", BUSYBOX)
    steps = [("a", f"echo hello from nowhere: {SHOW}; ls / >/dev/null; exit 3")]
    fragment = steps_fragment(
        steps,
        [("b", "echo cleaned")],
        timeout=9,
        grace=1,
        after_budget=9,
        variables={"DYNAPOD_JOB": "it's"},
        defaults=DEFAULTS,
    )
    (image / "dynapod/plan/steps").write_text(fragment)
    enter = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    # Not the whole of /dev: the report would be written into this machine's.
    mounts = 'mount --rbind /proc "$1/proc" && mount --bind /dev/null "$1/dev/null" || exit 99; exec chroot "$@"'
    clean = ["/dynapod/bin/busybox", "env", "-i", *OF_THE_IMAGE, "MINE=kept"]
    command = [*enter, "sh", "-c", mounts, "sh", str(image), *clean]
    possible = subprocess.run([*command, "/dynapod/bin/sh", "-c", ":"], check=False, capture_output=True)
    return command if possible.returncode == 0 else None


def test_the_shim_looks_for_things_where_the_pod_has_them() -> None:
    text = SHIM.read_text(encoding="utf-8")
    names = (anatomy.ENV_BIN, anatomy.ENV_PLAN, anatomy.ENV_STATE, anatomy.ENV_TERMINATION_LOG, anatomy.ENV_WORKSPACE)
    assert dict(re.findall(r"(DYNAPOD_\w+)=(/\S*)", text)) == {name: anatomy.PATHS[name] for name in names}
    assert f'if [ "$0" = {anatomy.BIN_PATH}/shim ]; then' in text


HOSTILE = "it's $(id)\n`id` \"x\" \\ ü\ufffd\u20ac'"


def test_steps_and_after_steps_see_what_the_fragment_sets(shim: Shim) -> None:
    show = 'printf "%s|%s|%s|%s|%s\\n" "$DYNAPOD_JOB" "$DYNAPOD_ATTEMPT" "$DYNAPOD_JOB_NAME" "$CI" "$DYNAPOD_WORKSPACE"'
    show += '; printf "%s %s=%s\\n" "$GIT_CONFIG_COUNT" "$GIT_CONFIG_KEY_0" "$GIT_CONFIG_VALUE_0"'
    variables = {"DYNAPOD_JOB": HOSTILE, "DYNAPOD_ATTEMPT": "3", "DYNAPOD_JOB_NAME": "nightly build"}
    ran = shim.run([("a", show)], [("b", show)], variables=variables, defaults=DEFAULTS, env={"CI": "of the image"})
    expected = f"{HOSTILE}|3|nightly build|true|{shim.workspace}\n1 safe.directory={shim.workspace}\n"
    assert ran.code == 0
    assert ran.output.count(expected) == 2


def test_git_believes_the_workspace_that_the_fragment_names(shim: Shim) -> None:
    ran = shim.run([("a", "git config --get safe.directory")], defaults=DEFAULTS)
    assert (ran.code, ran.lines[1]) == (0, str(shim.workspace))


def test_what_the_pod_itself_sets_is_left_to_it(shim: Shim) -> None:
    """CI as a description's env has it, even empty; the rest of the defaults is set all the same."""
    step = ("a", 'printf "[%s] %s %s\\n" "$CI" "$GIT_CONFIG_COUNT" "$GIT_CONFIG_KEY_0"')
    mine = {"CI": "", "GIT_CONFIG_COUNT": "2"}
    ran = shim.run([step], defaults=DEFAULTS.keys() - mine.keys(), env=mine)
    assert ran.lines[1] == "[] 2 safe.directory"


def test_the_report_keeps_to_the_limit_that_the_fragment_names(shim: Shim) -> None:
    steps = [(f"step number {n} with a name of some length", ":") for n in range(30)]
    ran = shim.run([*steps, ("bad", "exit 9")], variables={anatomy.ENV_REPORT_LIMIT: "646"})
    assert len(ran.message.encode()) <= 646
    assert ran.report.steps[-1].name == "bad"


@pytest.mark.parametrize("plant", ["mkfifo", "ln -s /dev/null"])
def test_something_else_in_place_of_the_exit_file_is_left_alone_and_holds_nobody_up(shim: Shim, plant: str) -> None:
    process = shim.start([("plant", f'{plant} "$DYNAPOD_STATE/exit"')])
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"exit is not a file: a step replaced it" in output
    assert not (shim.state / "exit").is_file()
