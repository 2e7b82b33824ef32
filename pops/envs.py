"""Environments by id, wrappers by name, made the same way everywhere."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import warnings
from collections import deque
from typing import Any, Callable, Union

import gymnasium as gym
import numpy as np

from pops.errors import EnvironmentFailure, PopsError
from pops.spec import Array, EnvSpec

EnvFactory = Callable[[], "gym.Env[Any, Any]"]
EnvSource = Union[EnvSpec, EnvFactory]
"""Where environments come from: a spec, or any function that makes one."""

_PACKAGES = {
    "Box2D": "pip install 'gymnasium[box2d]'",
    "box2d": "pip install 'gymnasium[box2d]'",
    "mujoco": "pip install 'gymnasium[mujoco]'",
    "ale_py": "pip install 'pops-rl[atari]'",
    "pygame": "pip install 'gymnasium[classic-control]'",
}
_ATARI = re.compile(r"(NoFrameskip|Deterministic|-ram)|^ALE/")


def make_env(source: EnvSource) -> gym.Env[Any, Any]:
    """Make one environment.

    `source.id` may be `module:Id`, Gymnasium's own convention: the module is
    imported first and registers the id. Each wrapper is `module:Class`, called
    with the environment alone, or `module:Class,key=value,...`, called with these
    arguments besides, in the order given.

    Raises:
        EnvironmentFailure: if the id is unknown, a package is missing (named), a
            wrapper cannot be found, or the constructor raises.
    """
    if not isinstance(source, EnvSpec):
        try:
            return source()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise EnvironmentFailure(f"The function given as environment raised {text}.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _register(source.id)
            env = gym.make(source.id, disable_env_checker=True, **source.kwargs)
    except Exception as error:
        raise EnvironmentFailure(_explain_make(source.id, error)) from error
    for name in source.wrappers:
        wrapper, arguments = _import_wrapper(name)
        try:
            env = wrapper(env, **arguments)
        except PopsError:
            env.close()
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise EnvironmentFailure(
                f"Wrapper {name!r} cannot wrap {source.id!r} ({text}); it is called with the "
                "environment and with the arguments that stand after its name, as in "
                "module:Class,key=value."
            ) from error
    if source.frame_stack:
        env = ZeroFillFrameStack(env, source.frame_stack)
    return env


def _register(env_id: str) -> None:
    """Import ale-py where an id is not known: it registers its games when it is imported."""
    if ":" in env_id or env_id in gym.registry:
        return
    with contextlib.suppress(ImportError):
        ale = importlib.import_module("ale_py")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)


def _explain_make(env_id: str, error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    cause = error.__cause__
    if missing is None and isinstance(cause, ImportError):
        missing = cause.name
    install = _PACKAGES.get(missing or "", "")
    if not install:
        install = next((how for key, how in _PACKAGES.items() if key.lower() in text.lower()), "")
    if not install and _ATARI.search(env_id) and isinstance(error, gym.error.UnregisteredEnv):
        install = _PACKAGES["ale_py"]
    if isinstance(error, OSError) and (".bin" in text or "rom" in text.lower()):
        return (
            f"The ROM of {env_id!r} is not there ({text}); ale-py brings it since version 0.9. "
            "pip install --upgrade --force-reinstall 'pops-rl[atari]'"
        )
    if install:
        return f"Environment {env_id!r} needs a package that is not installed ({text}). {install}"
    if isinstance(error, gym.error.UnregisteredEnv):
        return (
            f"Environment {env_id!r} is not registered ({error}). Check the spelling, or give "
            "your own as module:Id, where importing the module registers it."
        )
    if isinstance(error, ImportError):
        return (
            f"Environment {env_id!r} needs the package {missing or error!s}, which is not "
            f"installed. pip install {missing or 'it'}"
        )
    return f"Environment {env_id!r} cannot be made ({text}). Check --env and --env-kwargs."


def _import_wrapper(name: str) -> tuple[Callable[..., gym.Env[Any, Any]], dict[str, Any]]:
    target, *pairs = name.split(",")
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute or not all("=" in pair for pair in pairs):
        raise EnvironmentFailure(
            f"Wrapper {name!r} is not of the form module:Class or module:Class,key=value."
        )
    try:
        wrapper: Callable[..., gym.Env[Any, Any]] = getattr(
            importlib.import_module(module_name), attribute
        )
    except (ImportError, AttributeError) as error:
        raise EnvironmentFailure(
            f"Wrapper {name!r} cannot be imported ({error}). Expected module:Class, importable "
            "from where the command runs."
        ) from error
    if pairs and not (isinstance(wrapper, type) and issubclass(wrapper, gym.Wrapper)):
        # A file may name wrappers: arguments go to classes that wrap environments, to no others.
        raise EnvironmentFailure(
            f"Found arguments for {target!r}, which is no gymnasium.Wrapper; only those take any."
        )
    return wrapper, dict(_argument(pair) for pair in pairs)


def _argument(pair: str) -> tuple[str, Any]:
    key, _, value = pair.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


class ZeroFillFrameStack(gym.Wrapper[Any, Any, Any, Any]):
    """Stack the last frames on the last axis, zeros before the first, as VecFrameStack does.

    Gymnasium's own wrapper repeats the first frame at reset; a policy trained
    with Stable-Baselines3 has seen zeros.
    """

    def __init__(self, env: gym.Env[Any, Any], frames: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or not space.shape:
            raise EnvironmentFailure(f"Frames of {space} cannot be stacked; expected a Box.")
        # VecFrameStack stacks images channel first where they are channel first.
        self._axis = 0 if len(space.shape) == 3 and space.shape[0] < space.shape[-1] else -1
        self._frames: deque[Array] = deque(maxlen=frames)
        self._zero = np.zeros(space.shape, space.dtype)
        self.observation_space = gym.spaces.Box(
            np.repeat(space.low, frames, axis=self._axis),
            np.repeat(space.high, frames, axis=self._axis),
            dtype=space.dtype.type,
        )

    def reset(self, **kwargs: Any) -> tuple[Array, dict[str, Any]]:
        """Reset and fill the stack with zeros."""
        observation, info = self.env.reset(**kwargs)
        self._frames.extend([self._zero] * (self._frames.maxlen or 1))
        self._frames.append(observation)
        return self._stack(), info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Step and push the frame."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(observation)
        return self._stack(), reward, terminated, truncated, info

    def _stack(self) -> Array:
        return np.concatenate(list(self._frames), axis=self._axis)


def reset_is_like_new(source: EnvSource, steps: int = 64) -> bool:
    """Whether `reset(seed)` on a used environment gives what it gives on a new one.

    Some environments keep state over a reset (BipedalWalker keeps its world);
    for those every episode needs a new environment. One that fails under
    random actions is not trusted either; the episode itself tells how it fails.
    """
    used, fresh = make_env(source), make_env(source)
    try:
        rng = np.random.default_rng(0)
        actions = [sample_action(used.action_space, rng) for _ in range(steps)]
        _trace(used, 1, actions)
        return _trace(used, 2, actions) == _trace(fresh, 2, actions)
    except EnvironmentFailure:
        raise
    except Exception:
        return False
    finally:
        used.close()
        fresh.close()


def _trace(env: gym.Env[Any, Any], seed: int, actions: list[Any]) -> list[tuple[bytes, float]]:
    observation, _ = env.reset(seed=seed)
    trace = [(np.asarray(observation).tobytes(), 0.0)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        trace.append((np.asarray(observation).tobytes(), float(reward)))
        if terminated or truncated:
            break
    return trace


def sample_action(space: gym.Space[Any], rng: np.random.Generator) -> Any:
    """A uniformly random action, from `rng` alone.

    Raises:
        EnvironmentFailure: if the action space is neither Discrete nor a bounded Box.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(rng.integers(space.n)) + int(space.start)
    if isinstance(space, gym.spaces.Box) and space.is_bounded():
        return rng.uniform(space.low, space.high).astype(np.float32)
    raise EnvironmentFailure(
        f"Found the action space {space}; expected Discrete or a bounded Box. "
        "MultiDiscrete, MultiBinary, Dict and unbounded actions are not supported."
    )
