import signal
import threading

import pytest

from tests.support import Running
from typedrpc.sync.stop import Stop

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_it_stays_set() -> None:
    with Stop() as stop:
        waiting = Running(stop.wait)
        stop.set()
        waiting.result()
        stop.wait()


def test_setting_it_often_and_after_the_end_is_harmless() -> None:
    with Stop() as stop:
        for _ in range(100_000):  # more than the socket holds
            stop.set()
        stop.wait()
    stop.set()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_another_thread_gets(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop() as stop, stop.on_signals():
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), number))
        thread.start()
        stop.wait()
        thread.join()
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def look() -> list[object]:
        with Stop() as stop, stop.on_signals():
            return [signal.getsignal(number) for number in SIGNALS]

    assert Running(look).result() == before
