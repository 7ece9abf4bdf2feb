import os
import signal
import threading

import pytest

from tests.support import Program, Running
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_a_forked_child_ends_the_child_and_not_the_server(number: signal.Signals) -> None:
    source = f"""
        import os, signal
        from tests.support import Workshop
        from typedrpc import connect, serve

        def started(server):
            child = os.fork()
            if not child:
                signal.signal({int(number)}, signal.SIG_DFL) if {number is signal.SIGINT} else None
                say("child")
                while True:
                    signal.pause()
            assert os.read(0, 1)  # the child pauses, or is about to
            os.kill(child, {int(number)})
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == {int(number)}
            with connect(Workshop, server.url) as proxy:
                say(proxy.add(1, 2))
            server.close()

        serve(Workshop(), url="tcp://127.0.0.1:0", on_start=started)
        say("stopped")
    """
    with Program(source, measured=False) as program:
        assert program.hear() == "child"
        program.say()
        assert program.hear() == "3"
        assert program.hear() == "stopped"
        program.expect_success()
