# The shim: runs a job's steps inside the job's own image, as the container's first process.
#
# POSIX shell, for dash and busybox ash alike. The image may hold no other program at all: everything here is a shell
# builtin, but for `setsid` and `sleep`, which come from $DYNAPOD_BIN/busybox when it is there, else from PATH.
# Every name starts with `_dynapod_`: a plain name that the job's env also uses would be changed for its steps.
#
#   $DYNAPOD_PLAN/steps  a shell fragment (runner_spec/steps.py): limits, variables of the steps, steps, after steps
#   $DYNAPOD_STATE       the scripts are written here; at the end `exit`, the decimal exit code
#   $DYNAPOD_TERMINATION_LOG  receives a RunReport (runner_spec/report.py) as JSON
#   $DYNAPOD_REPORT_LIMIT     how many bytes of it the kubelet keeps; 4096 when it is not set
#
# Signals are acted on inside their traps, never by a flag that a loop looks at: between a look at the flag and
# `wait`, a signal would be noticed only when the step has ended by itself. A trap runs between any two commands, so
# its scratch variables are `local` (not POSIX, but known to dash, ash and bash): it must not change those of the code
# it interrupts.
#   TERM  cancel, or the end of keeping      USR1  the deadline's timer has ended      USR2  the grace period's timer has ended
#
# Times are centiseconds from /proc/uptime, which is monotonic and read without a fork.

# In a pod, where everything is stands here (runner_spec/anatomy.py) and not in the manifest; what the job's image says in
# variables of these names must not count. The embedded cluster, which maps each folder to one of its own, starts the
# shim by another path and says in these variables where they are.
if [ "$0" = /dynapod/bin/shim ]; then
    DYNAPOD_BIN=/dynapod/bin DYNAPOD_PLAN=/dynapod/plan DYNAPOD_STATE=/dynapod/state
    DYNAPOD_TERMINATION_LOG=/dev/termination-log DYNAPOD_WORKSPACE=/workspace
    export DYNAPOD_BIN DYNAPOD_PLAN DYNAPOD_STATE DYNAPOD_TERMINATION_LOG DYNAPOD_WORKSPACE
fi

_dynapod_count=0            # scripts written
_dynapod_first_after=0      # number of the first `after` script; 0 = none yet
_dynapod_pid=               # the running step: leader of its own session and process group
_dynapod_timer= _dynapod_grace_timer=
_dynapod_ending=            # set once the running step has been told to end
_dynapod_deadline=0         # uptime at which the running phase must be over; 0 = never
_dynapod_phase=start        # start, steps, after, keep, done
_dynapod_cause=ok           # the first thing that went wrong: ok, step, timeout, canceled
_dynapod_code=0 _dynapod_message=
_dynapod_told=              # set by the first TERM
_dynapod_keep=0 _dynapod_hint= # for how long to stay after a failure; what to tell people then
_dynapod_keeper=            # the sleep meanwhile: leader of its own session
_dynapod_reports=           # JSON objects, each followed by a comma

# --- What the fragment calls -----------------------------------------------------------------------------------------

dynapod_limits() {
    if [ "$1" != 1 ]; then
        _dynapod_fail "the steps are in format $1, this shim understands 1: use matching runner image and worker"
    fi
    _dynapod_timeout=$2 _dynapod_grace=$3 _dynapod_after_budget=$4
}

dynapod_keep() { _dynapod_keep=$1 _dynapod_hint=$2; }

dynapod_step() { _dynapod_store "$@"; }

dynapod_after() {
    _dynapod_store "$@"
    [ "$_dynapod_first_after" -gt 0 ] || _dynapod_first_after=$_dynapod_count
}

# Arguments: heading, name as a JSON string, script. A script may be larger than one argument of execve (128 KiB on
# Linux): only builtins ever see its text.
_dynapod_store() {
    _dynapod_count=$((_dynapod_count + 1))
    eval "_dynapod_heading_$_dynapod_count=\$1 _dynapod_name_$_dynapod_count=\$2"
    printf '%s\n' "$3" >"$DYNAPOD_STATE/step-$_dynapod_count" ||
        _dynapod_fail "cannot write script $_dynapod_count into $DYNAPOD_STATE: is the volume full?"
}

# --- Clock -----------------------------------------------------------------------------------------------------------

_dynapod_clock() { # sets _dynapod_now
    if IFS=' ' read -r _dynapod_up _dynapod_rest 2>/dev/null </proc/uptime; then
        _dynapod_rest=${_dynapod_up#*.}
        _dynapod_now=$((${_dynapod_up%.*} * 100 + 1$_dynapod_rest - 100)) # 1NN - 100: 08 alone would be octal
    else
        _dynapod_now=$(($(date +%s 2>/dev/null || printf 0) * 100)) # a system without /proc: local runs only
    fi
}

_dynapod_decimal() { # centiseconds → _dynapod_text, seconds with two decimals
    _dynapod_rest=$(($1 % 100))
    [ "$_dynapod_rest" -gt 9 ] || _dynapod_rest=0$_dynapod_rest
    _dynapod_text=$(($1 / 100)).$_dynapod_rest
}

# Replaces the (sub)shell by a command in a session, and so in a process group, of its own.
_dynapod_exec_session() {
    if [ -n "$_dynapod_busybox" ]; then exec "$_dynapod_busybox" setsid "$@"; else exec setsid "$@"; fi
}

# A timer: `sleep`, then a signal to this shell. In its own session, so that both can be ended together, and with no
# hold on the log's pipe. Sets _dynapod_new_timer.
_dynapod_start_timer() { # centiseconds, signal
    _dynapod_decimal "$1"
    _dynapod_text=${_dynapod_text%.00} # POSIX sleep knows whole seconds only
    # shellcheck disable=SC2016 # expanded by the timer's own shell
    _dynapod_exec_session "$_dynapod_sh" -c \
        'if [ -n "$1" ]; then "$1" sleep "$2"; else sleep "$2"; fi; kill "-$3" "$4"' \
        timer "$_dynapod_busybox" "$_dynapod_text" "$2" $$ </dev/null >/dev/null 2>&1 &
    _dynapod_new_timer=$!
}

_dynapod_signal_group() { # signal, leader
    # There is no group before the leader has called setsid; it may do so between our two attempts.
    kill "-$1" "-$2" 2>/dev/null || { kill "-$1" "$2" 2>/dev/null; kill "-$1" "-$2" 2>/dev/null; }
}

# Whether a process of the group still runs. A zombie does not, but kill would find it: where we are not PID 1, somebody
# else reaps orphans, sooner or later. Fields of /proc/PID/stat: pid (command) state ppid pgrp.
_dynapod_group_runs() { # leader
    kill -0 "-$1" 2>/dev/null || return 1
    [ -r /proc/self/stat ] || return 0
    for _dynapod_stat in /proc/[0-9]*/stat; do
        IFS= read -r _dynapod_line 2>/dev/null <"$_dynapod_stat" || continue
        case ${_dynapod_line##*) } in
        [ZX]*) ;;
        [A-Za-z]' '*[0-9]' '"$1"' '*)
            _dynapod_line=${_dynapod_line##*) ? }
            _dynapod_line=${_dynapod_line#* }
            [ "${_dynapod_line%% *}" != "$1" ] || return 0
            ;;
        esac
    done
    return 1
}

_dynapod_stop_timer() {
    if [ -n "$1" ]; then
        _dynapod_signal_group KILL "$1"
        wait "$1" 2>/dev/null
    fi
}

# --- Ending a step ---------------------------------------------------------------------------------------------------

_dynapod_end_step() { # TERM to the group now; KILL follows when the grace period is over
    if [ -n "$_dynapod_pid" ] && [ -z "$_dynapod_ending" ]; then
        _dynapod_clock
        _dynapod_ending=$((_dynapod_now + _dynapod_grace))
        _dynapod_signal_group TERM "$_dynapod_pid"
        _dynapod_start_timer "$_dynapod_grace" USR2
        _dynapod_grace_timer=$_dynapod_new_timer
    fi
}

_dynapod_blame() { # cause, exit code, message: the first cause stands
    if [ "$_dynapod_cause" = ok ]; then
        _dynapod_cause=$1 _dynapod_code=$2 _dynapod_message=$3
    fi
}

_dynapod_on_term() {
    local _dynapod_now _dynapod_up _dynapod_rest _dynapod_text _dynapod_new_timer
    _dynapod_told=1
    _dynapod_blame canceled 143 "canceled by SIGTERM"
    [ -z "$_dynapod_keeper" ] || _dynapod_signal_group KILL "$_dynapod_keeper"
    # After steps run to their end (or budget) even when canceled: they are what cleans up.
    [ "$_dynapod_phase" != steps ] || _dynapod_end_step
}

_dynapod_on_deadline() {
    local _dynapod_now _dynapod_up _dynapod_rest _dynapod_text _dynapod_new_timer
    [ "$_dynapod_deadline" -gt 0 ] || return 0
    _dynapod_clock
    if [ "$_dynapod_now" -lt "$_dynapod_deadline" ]; then
        # Early: somebody killed the timer's sleep, or sent USR1. The deadline stands.
        [ -n "$_dynapod_pid" ] || return 0
        _dynapod_stop_timer "$_dynapod_timer"
        _dynapod_start_timer $((_dynapod_deadline - _dynapod_now)) USR1
        _dynapod_timer=$_dynapod_new_timer
        return 0
    fi
    _dynapod_expire
    _dynapod_end_step
}

_dynapod_expire() {
    _dynapod_expired=1
    if [ "$_dynapod_phase" = after ]; then
        _dynapod_decimal "$_dynapod_after_budget"
        _dynapod_blame step 124 "the after steps exceeded their budget of $_dynapod_text s"
    else
        _dynapod_decimal "$_dynapod_timeout"
        _dynapod_blame timeout 124 "the job exceeded its timeout of $_dynapod_text s"
    fi
}

_dynapod_on_grace() {
    local _dynapod_now _dynapod_up _dynapod_rest _dynapod_text _dynapod_new_timer
    if [ -n "$_dynapod_pid" ] && [ -n "$_dynapod_ending" ]; then
        _dynapod_clock
        if [ "$_dynapod_now" -lt "$_dynapod_ending" ]; then
            _dynapod_stop_timer "$_dynapod_grace_timer"
            _dynapod_start_timer $((_dynapod_ending - _dynapod_now)) USR2
            _dynapod_grace_timer=$_dynapod_new_timer
        else
            _dynapod_signal_group KILL "$_dynapod_pid"
        fi
    fi
}

_dynapod_pause() {
    if [ -n "$_dynapod_busybox" ]; then
        "$_dynapod_busybox" sleep 0.1 2>/dev/null || "$_dynapod_busybox" sleep 1
    else
        sleep 0.1 2>/dev/null || sleep 1
    fi
}

# What a step has left running in its group must not outlive it: it would hold the log and the ports.
_dynapod_end_stragglers() { # leader
    _dynapod_group_runs "$1" || return 0
    kill -TERM "-$1" 2>/dev/null
    _dynapod_clock
    _dynapod_until=${_dynapod_ending:-$((_dynapod_now + _dynapod_grace))}
    while _dynapod_group_runs "$1"; do
        if [ "$_dynapod_now" -ge "$_dynapod_until" ]; then
            kill -KILL "-$1" 2>/dev/null
            return 0
        fi
        # Not our children, so `wait` cannot tell when they end: look again, ten times a second.
        _dynapod_pause
        _dynapod_clock
    done
}

# --- Running a step --------------------------------------------------------------------------------------------------

_dynapod_start() { # script file: starts it in its own session, sets _dynapod_pid
    IFS= read -r _dynapod_line <"$1"
    case $_dynapod_line in
    '#!'*)
        # Its interpreter with at most one argument, as the kernel does it. The file itself cannot be executed: making
        # it executable needs chmod, which the image may not have.
        _dynapod_line=${_dynapod_line#??}
        _dynapod_line=${_dynapod_line#"${_dynapod_line%%[! $_dynapod_tab]*}"}
        _dynapod_line=${_dynapod_line%"${_dynapod_line##*[! $_dynapod_tab]}"}
        _dynapod_interpreter=${_dynapod_line%%[ $_dynapod_tab]*}
        _dynapod_argument=${_dynapod_line#"$_dynapod_interpreter"}
        _dynapod_argument=${_dynapod_argument#"${_dynapod_argument%%[! $_dynapod_tab]*}"}
        ;;
    *) _dynapod_interpreter=$_dynapod_step_sh _dynapod_argument=-e ;;
    esac
    _dynapod_exec_step "$_dynapod_interpreter" ${_dynapod_argument:+"$_dynapod_argument"} "$1" </dev/null &
    _dynapod_pid=$!
}

# A shell without job control starts `command &` with INT and QUIT ignored, and no shell can undo that. A step would
# inherit it: Python, say, would never raise KeyboardInterrupt. GNU env can reset them, and so can python3; in an image
# with neither, they stay ignored.
_dynapod_exec_step() {
    case $_dynapod_defaults in
    env) _dynapod_exec_session /usr/bin/env --default-signal=INT,QUIT "$@" ;;
    python) _dynapod_exec_session python3 -I -S -c "$_dynapod_python" "$@" ;;
    *) _dynapod_exec_session "$@" ;;
    esac
}

_dynapod_python='import os, signal, sys
for name in ("SIGINT", "SIGQUIT", "SIGPIPE", "SIGXFSZ"):  # the last two are ignored by Python itself
    signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.stderr.write(f"{sys.argv[1]}: {error.strerror}\n")
    sys.exit(127)'

# Waits for the step whatever signals arrive; sets _dynapod_status.
_dynapod_await() {
    while :; do
        wait "$_dynapod_pid" 2>/dev/null
        _dynapod_status=$?
        # Over 128: killed by a signal, or `wait` was interrupted by a trap. A process that still exists, if only as
        # a zombie, has not been waited for.
        [ "$_dynapod_status" -gt 128 ] || return 0
        kill -0 "$_dynapod_pid" 2>/dev/null || break
    done
    # dash may reap the child in the very `wait` that a trap interrupts: its status is then still to be had.
    wait "$_dynapod_pid" 2>/dev/null
    _dynapod_again=$?
    [ "$_dynapod_again" = 127 ] || _dynapod_status=$_dynapod_again
}

_dynapod_run() { # number of the step; sets _dynapod_status
    eval "_dynapod_heading=\$_dynapod_heading_$1 _dynapod_name=\$_dynapod_name_$1"
    printf '[dynapod] step %s\n' "$_dynapod_heading"
    _dynapod_clock
    _dynapod_began=$_dynapod_now
    _dynapod_ending=
    if [ "$_dynapod_deadline" -gt 0 ]; then
        _dynapod_start_timer $((_dynapod_deadline > _dynapod_now ? _dynapod_deadline - _dynapod_now : 0)) USR1
        _dynapod_timer=$_dynapod_new_timer
    fi
    _dynapod_start "$DYNAPOD_STATE/step-$1"
    # A signal that came between the fork and `_dynapod_pid=$!` found no step to end.
    if [ -n "$_dynapod_expired" ]; then _dynapod_end_step; fi
    if [ "$_dynapod_phase" = steps ] && [ "$_dynapod_cause" != ok ]; then _dynapod_end_step; fi
    _dynapod_await
    _dynapod_leader=$_dynapod_pid
    _dynapod_pid=
    _dynapod_stop_timer "$_dynapod_timer"
    _dynapod_stop_timer "$_dynapod_grace_timer"
    _dynapod_timer= _dynapod_grace_timer=
    _dynapod_clock
    _dynapod_ended=$_dynapod_now
    _dynapod_end_stragglers "$_dynapod_leader"
    _dynapod_decimal $((_dynapod_ended - _dynapod_began))
    printf '[dynapod] step %s: exit %s after %s s\n' "$_dynapod_heading" "$_dynapod_status" "$_dynapod_text"
    _dynapod_entry="{\"name\":$_dynapod_name,\"exit\":$_dynapod_status,\"seconds\":$_dynapod_text"
    [ "$_dynapod_phase" = steps ] || _dynapod_entry="$_dynapod_entry,\"after\":true"
    _dynapod_reports="$_dynapod_reports$_dynapod_entry},"
}

# --- Keeping a failed job's container --------------------------------------------------------------------------------

# Stays until the time is over or somebody ends it, so that people can look around with `kubectl exec`: that needs a
# running container. The verdict stands already; who was told to end before it came here does not stay.
_dynapod_stay() {
    case $_dynapod_cause in step | timeout) ;; *) return 0 ;; esac
    [ "$_dynapod_keep" -gt 0 ] && [ -z "$_dynapod_told" ] || return 0
    _dynapod_phase=keep _dynapod_deadline=0
    printf '[dynapod] %s\n' "$_dynapod_hint"
    _dynapod_decimal "$_dynapod_keep"
    _dynapod_sleep "${_dynapod_text%.00}" </dev/null >/dev/null 2>&1 &
    _dynapod_keeper=$!
    # A signal that came before this line found nothing to end.
    [ -z "$_dynapod_told" ] || _dynapod_signal_group KILL "$_dynapod_keeper"
    # `wait` returns for every signal; a process that still exists has not ended.
    while kill -0 "$_dynapod_keeper" 2>/dev/null; do wait "$_dynapod_keeper" 2>/dev/null; done
    _dynapod_keeper=
}

_dynapod_sleep() {
    if [ -n "$_dynapod_busybox" ]; then _dynapod_exec_session "$_dynapod_busybox" sleep "$1"; fi
    _dynapod_exec_session sleep "$1"
}

# --- The end ---------------------------------------------------------------------------------------------------------

_dynapod_finish() { # writes the state and the report, exits
    _dynapod_phase=done
    trap '' TERM INT HUP USR1 USR2
    trap - EXIT
    # The kubelet keeps only so many bytes. The oldest steps give way: the one that failed is among the last. The
    # renderer escapes `}` inside names, so a `},` always ends an entry. 120: keys, quotes, and what is added below.
    case $DYNAPOD_REPORT_LIMIT in
    '' | *[!0-9]*) _dynapod_room=4096 ;;
    *) _dynapod_room=$DYNAPOD_REPORT_LIMIT ;;
    esac
    _dynapod_room=$((_dynapod_room - ${#_dynapod_message} - 120))
    _dynapod_dropped=0
    while [ -n "$_dynapod_reports" ] && [ "${#_dynapod_reports}" -gt "$_dynapod_room" ]; do
        _dynapod_reports=${_dynapod_reports#*\},}
        _dynapod_dropped=$((_dynapod_dropped + 1))
    done
    if [ "$_dynapod_dropped" -gt 0 ]; then
        _dynapod_message="$_dynapod_message${_dynapod_message:+; }the first $_dynapod_dropped steps are not listed"
    fi
    if [ -L "$DYNAPOD_STATE/exit" ] || [ -p "$DYNAPOD_STATE/exit" ]; then
        # A step put a link or a pipe there: writing could hang for ever. upload says whose fault that is.
        printf '[dynapod] %s\n' "$DYNAPOD_STATE/exit is not a file: a step replaced it" >&2
    elif ! printf '%s\n' "$_dynapod_code" >"$DYNAPOD_STATE/exit" && [ "$_dynapod_code" = 0 ]; then
        # upload would take the run for a failed one and skip its artifacts: that must not become a success.
        _dynapod_cause=shim _dynapod_code=125 _dynapod_message="cannot write $DYNAPOD_STATE/exit: is the volume full?"
        printf '[dynapod] %s\n' "$_dynapod_message" >&2
    fi
    if [ -n "$DYNAPOD_TERMINATION_LOG" ]; then
        printf '{"reason":"%s","message":"%s","steps":[%s]}' \
            "$_dynapod_cause" "$_dynapod_message" "${_dynapod_reports%,}" >"$DYNAPOD_TERMINATION_LOG"
    fi
    exit "$_dynapod_code"
}

_dynapod_fail() { # message without quotes or backslashes: the shim itself cannot go on
    printf '[dynapod] %s\n' "$1" >&2
    _dynapod_cause=shim _dynapod_code=125 _dynapod_message=$1 # 125: the runtime failed, as with docker run
    _dynapod_finish
}

# --- Main ------------------------------------------------------------------------------------------------------------

_dynapod_find_programs() {
    _dynapod_busybox= _dynapod_sh=/bin/sh _dynapod_step_sh=/bin/sh
    [ ! -x "$DYNAPOD_BIN/busybox" ] || _dynapod_busybox=$DYNAPOD_BIN/busybox
    [ ! -x "$DYNAPOD_BIN/sh" ] || _dynapod_sh=$DYNAPOD_BIN/sh
    [ -x /bin/sh ] || _dynapod_step_sh=$_dynapod_sh
    if ! (_dynapod_exec_session "$_dynapod_sh" -c :) 2>/dev/null; then
        _dynapod_fail "neither a static busybox in $DYNAPOD_BIN nor setsid on PATH: put busybox into the runner image"
    fi
    _dynapod_defaults=none
    if /usr/bin/env --default-signal=INT,QUIT "$_dynapod_sh" -c : 2>/dev/null; then
        _dynapod_defaults=env
    elif python3 -I -S -c : 2>/dev/null; then
        _dynapod_defaults=python
    fi
    _dynapod_tab=$(printf '\t')
}

_dynapod_main() {
    trap _dynapod_on_term TERM INT HUP
    trap _dynapod_on_deadline USR1
    trap _dynapod_on_grace USR2
    trap '_dynapod_fail "the steps could not be read: the fragment is damaged"' EXIT
    _dynapod_clock
    _dynapod_started=$_dynapod_now _dynapod_expired= _dynapod_timeout=
    [ -r "$DYNAPOD_PLAN/steps" ] || _dynapod_fail "no steps at $DYNAPOD_PLAN/steps: is the plan mounted?"
    _dynapod_find_programs
    . "$DYNAPOD_PLAN/steps"
    [ -n "$_dynapod_timeout" ] || _dynapod_fail "the steps at $DYNAPOD_PLAN/steps name no limits"

    _dynapod_phase=steps
    _dynapod_deadline=$((_dynapod_started + _dynapod_timeout))
    _dynapod_last=$((_dynapod_first_after > 0 ? _dynapod_first_after - 1 : _dynapod_count))
    _dynapod_number=0
    while [ "$_dynapod_number" -lt "$_dynapod_last" ] && [ "$_dynapod_cause" = ok ]; do
        _dynapod_number=$((_dynapod_number + 1))
        _dynapod_run "$_dynapod_number"
        [ "$_dynapod_status" = 0 ] || _dynapod_blame step "$_dynapod_status" ""
    done

    _dynapod_clock
    _dynapod_deadline=$((_dynapod_now + _dynapod_after_budget)) _dynapod_expired=
    _dynapod_phase=after
    _dynapod_number=$_dynapod_last
    while [ "$_dynapod_number" -lt "$_dynapod_count" ] && [ -z "$_dynapod_expired" ]; do
        _dynapod_number=$((_dynapod_number + 1))
        _dynapod_run "$_dynapod_number"
        [ "$_dynapod_status" = 0 ] || _dynapod_blame step "$_dynapod_status" ""
    done
    _dynapod_stay
    _dynapod_finish
}

_dynapod_main
