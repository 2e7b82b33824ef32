"""Games that a library's training plays, stepped side by side in a few processes.

Stable-Baselines3 gives each environment a process of its own. Where there are more of them than
cores, waking sixteen processes for half a millisecond's work each costs as much as the work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Callable

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnv

from pops.errors import EnvironmentFailure

Maker = Callable[[], gym.Env[Any, Any]]


class Games(VecEnv):
    """Environments in processes, several in each; steps and resets as `DummyVecEnv` does.

    What comes back does not depend on how many processes there are.
    """

    def __init__(self, makers: Sequence[Maker], processes: int) -> None:
        """Start the processes.

        Args:
            makers: of environments whose observations are a Box.
            processes: how many; no more than environments.

        Raises:
            EnvironmentFailure: if one cannot be made.
        """
        known = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in known else "spawn"
        )
        self._groups = [list(g) for g in np.array_split(range(len(makers)), processes) if len(g)]
        self._remotes: list[Connection] = []
        self._processes: list[Any] = []
        for group in self._groups:
            here, there = context.Pipe()
            shipped = CloudpickleWrapper([makers[index] for index in group])
            # A daemon: it ends with this process, however that ends.
            process = context.Process(target=_serve, args=(there, here, shipped), daemon=True)
            process.start()
            there.close()
            self._remotes.append(here)
            self._processes.append(process)
        try:
            spaces = [_answer(remote) for remote in self._remotes]
        except EnvironmentFailure:
            self.close()
            raise
        super().__init__(len(makers), *spaces[0])

    def step_async(self, actions: Any) -> None:
        """Begin a step; actions (n_envs, ...)."""
        for remote, group in zip(self._remotes, self._groups):
            _ask(remote, "step", actions[group[0] : group[-1] + 1])

    def step_wait(self) -> Any:
        """(observations, rewards, dones, infos) of the step that was begun."""
        answers = [_answer(remote) for remote in self._remotes]
        played, resets = zip(*answers)
        observations, rewards, dones, infos = zip(*played)
        self.reset_infos = [info for group in resets for info in group]
        return (
            np.concatenate(observations),
            np.concatenate(rewards),
            np.concatenate(dones),
            [info for group in infos for info in group],
        )

    def reset(self) -> Any:
        """First observations (n_envs, ...) of new episodes, on the seeds given before if any."""
        for remote, group in zip(self._remotes, self._groups):
            of_group = [(self._seeds[index], self._options[index]) for index in group]
            _ask(remote, "reset", of_group)
        observations, resets = zip(*[_answer(remote) for remote in self._remotes])
        self.reset_infos = [info for group in resets for info in group]
        self._reset_seeds()
        self._reset_options()
        return np.concatenate(observations)

    def close(self) -> None:
        """End the processes."""
        for remote in self._remotes:
            remote.close()
        for process in self._processes:
            process.join(5)
            process.terminate()
        self._remotes, self._processes = [], []

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each environment."""
        return self._routed(indices, "get_attr", attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        self._routed(indices, "set_attr", attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment."""
        return self._routed(indices, "env_method", method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Whether each environment is wrapped in this class."""
        return self._routed(indices, "env_is_wrapped", wrapper_class)

    def _routed(self, indices: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """What a method of `DummyVecEnv` returns for these environments, in their order."""
        wanted = list(self._get_indices(indices))
        found: dict[int, Any] = {}
        for remote, group in zip(self._remotes, self._groups):
            mine = [index for index in group if index in wanted]
            local = [index - group[0] for index in mine]
            _ask(remote, method, *args, **kwargs, indices=local)
            answer = _answer(remote) or [None] * len(mine)
            found.update(zip(mine, answer))
        return [found[index] for index in wanted]


def _ask(remote: Connection, method: str, *args: Any, **kwargs: Any) -> None:
    with _ended_is_said():
        remote.send((method, args, kwargs))


def _answer(remote: Connection) -> Any:
    with _ended_is_said():
        answer = remote.recv()
    if isinstance(answer, EnvironmentFailure):
        raise answer
    return answer


@contextlib.contextmanager
def _ended_is_said() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise EnvironmentFailure(
            "A process that steps environments ended; what it said, if anything, stands above. "
            "What was finished before is kept, and --resume goes on from there."
        ) from error


class _Served(DummyVecEnv):
    """The environments of one process, with answers as `Games` puts them together."""

    def step(self, actions: Any) -> Any:
        return super().step(actions), list(self.reset_infos)

    def reset(self, given: Any = None) -> Any:
        if given is not None:
            self._seeds = [seed for seed, _ in given]
            self._options = [options for _, options in given]
        return super().reset(), list(self.reset_infos)


def _serve(remote: Connection, parents: Connection, makers: Any) -> None:
    """Answer until the other end of the pipe is closed."""
    parents.close()
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        try:
            with contextlib.closing(_Served(makers.var)) as envs:
                remote.send((envs.observation_space, envs.action_space))
                while True:
                    method, args, kwargs = remote.recv()
                    remote.send(getattr(envs, method)(*args, **kwargs))
        except EnvironmentFailure as error:
            remote.send(error)
