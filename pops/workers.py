"""Processes that work side by side; what they return does not depend on how many there are."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable, TypeVar

from pops.errors import PopsError
from pops.metered import report_steps, with_steps

T = TypeVar("T")


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


class SingleThread:
    """One thread in BLAS and torch while this is open.

    More would fight with the worker processes for cores, and change the order
    of sums and with it the bits of a result.
    """

    def __init__(self) -> None:
        from threadpoolctl import threadpool_limits

        self._limits = threadpool_limits(1)
        self._torch = sys.modules.get("torch")
        self._threads = 0 if self._torch is None else int(self._torch.get_num_threads())
        if self._torch is not None:
            self._torch.set_num_threads(1)

    def close(self) -> None:
        """Give the threads back."""
        self._limits.restore_original_limits()
        if self._torch is not None:
            self._torch.set_num_threads(self._threads)


def _start_worker(parent: int) -> None:
    """Runs first in each worker process, which stays single-threaded for its whole life."""
    # The executor may also start a process later, from a thread that does not hold Ctrl-C back.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    SingleThread()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that it works for was killed; nobody else would tell it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back; processes and threads started meanwhile never hear it.

    A terminal sends it to the workers too. This process alone answers, and stops them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """An ordered parallel map over processes; with one worker, in this process.

    Tasks are shipped with cloudpickle, so that environment factories may be
    lambdas or defined in a script.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise PopsError(f"Found {count} workers, expected at least one.")
        self.count = count
        self._executor: Any = None
        self._single = SingleThread()

    def map(self, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]) -> list[T]:
        """`[function(*task) for task in tasks]`, in order.

        Raises:
            PopsError: what a task raised, or that a worker died (its memory, most likely).
        """
        if self.count == 1 or len(tasks) == 1:
            return [function(*task) for task in tasks]
        from loky import ProcessPoolExecutor
        from loky.process_executor import BrokenProcessPool, TerminatedWorkerError

        futures: list[Any] = []
        try:
            with _interrupts_held():
                if self._executor is None:
                    self._executor = ProcessPoolExecutor(
                        self.count, initializer=_start_worker, initargs=(os.getpid(),)
                    )
                futures = [self._executor.submit(with_steps, function, *task) for task in tasks]
            done = [future.result() for future in futures]
            report_steps(sum(steps for _, steps in done))
            return [result for result, _ in done]
        except TerminatedWorkerError as error:
            raise PopsError(
                "A worker process died, most likely because memory ran out. "
                "Use fewer --workers; --resume goes on from the last finished stage."
            ) from error
        except (BrokenProcessPool, pickle.PicklingError) as error:
            raise PopsError(
                f"Work cannot be given to other processes ({error}). What defines the teacher and "
                "the environment must be importable or picklable there; use 1 worker otherwise."
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def close(self, kill: bool = False) -> None:
        """Stop the processes and give back the threads.

        Args:
            kill: do not wait for what they are at. Killed processes leave semaphores behind,
                which the interpreter complains about when it exits.
        """
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=kill)
            self._executor = None
        self._single.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(kill=kind is not None)
