import contextlib
import threading

from keras_alexnet.system.shared_context import shared_by_threads


def test_the_last_thread_to_leave_restores_what_the_first_one_saved():
    value = ["original"]

    @shared_by_threads
    @contextlib.contextmanager
    def changed():
        saved, value[0] = value[0], "changed"
        try:
            yield
        finally:
            value[0] = saved

    inside, leave = threading.Event(), threading.Event()

    def stay():
        with changed():
            inside.set()
            leave.wait()

    other = threading.Thread(target=stay)
    with changed():
        other.start()
        inside.wait()
    assert value == ["changed"]
    leave.set()
    other.join()
    assert value == ["original"]
    with contextlib.suppress(KeyError), changed():
        raise KeyError
    assert value == ["original"]
