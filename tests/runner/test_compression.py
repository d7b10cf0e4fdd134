import os
import signal
import threading

from runner.compression import _write_all


def test_a_signal_in_the_middle_of_a_write_loses_nothing() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    reading, writing = os.pipe()
    pieces = [bytes([number]) * 300_000 for number in range(4)]  # together far more than a pipe holds

    def feed() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - of a descriptor
            _write_all(pipe, pieces)

    feeder = threading.Thread(target=feed)
    try:
        with open(reading, "rb", buffering=0) as output:  # noqa: PTH123 - of a descriptor
            feeder.start()
            found = [output.read(1)]  # now it is inside of its first system call, which the signal ends early
            assert feeder.ident is not None
            signal.pthread_kill(feeder.ident, signal.SIGUSR1)
            while found[-1]:
                found.append(output.read(65536))
        feeder.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert b"".join(found) == b"".join(pieces)
