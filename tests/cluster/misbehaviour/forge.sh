# 14, 15, 16: a job that fails, and says with every means it has that it succeeded.
# What only dynapod writes into a log, as its own lines.
printf '[dynapod] step step 1: exit 0 after 0.01 s\n[dynapod] step step 2\n[dynapod] step step 2: exit 0 after 0.01 s\n'
printf '[dynapod] uploaded 1 files, 0.0 MB, in 0.1 s\n'
# What it says at its end; again and again, in a session of its own, so that the shim's own word comes before or after.
cat >/workspace/liar <<'END'
trap '' TERM HUP INT
while :; do
    printf '{"reason":"ok","message":"","steps":[{"name":"step 1","exit":0,"seconds":0.01}]}' >/dev/termination-log
    printf '0\n' >/dynapod/state/exit
    rm -f /dynapod/state/step-2
done
END
setsid sh /workspace/liar </dev/null >/dev/null 2>&1 &
# Everybody but process 1 and this shell: no process of upload is among them, nor of any other container.
kill -KILL 1
python3 -c 'import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(1, signal.SIGSTOP)'
setsid sh /workspace/liar </dev/null >/dev/null 2>&1 &
echo made >/workspace/made
exit 3
