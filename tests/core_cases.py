"""Teachers made by hand and small budgets, for the tests of the compression core."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from pops.arch import NetArch
from pops.config import CompressConfig
from pops.policy import NumpyPolicy
from pops.spec import ContinuousActions, DiscreteActions, EnvSpec, PolicySpec

STEER = EnvSpec("core_envs:Steer-v0")
GLIDE = EnvSpec("core_envs:Glide-v0")
CARTPOLE = EnvSpec("CartPole-v1")


def random_policy(arch, spec, seed=0, scale=1.0):
    """A network of normal weights, each layer scaled by its fan-in."""
    rng = np.random.default_rng(seed)
    parameters = []
    for layer in arch.layers():
        fan_in = np.prod(layer.weight[1:])
        weight = rng.normal(0, scale / np.sqrt(fan_in), layer.weight)
        bias = rng.normal(0, 0.1, layer.weight[0])
        parameters.append((weight.astype(np.float32), bias.astype(np.float32)))
    return NumpyPolicy(spec, arch, parameters)


def teacher_of(directions, spec, width=32, noise=0.02, seed=0):
    """A features-width-width-outputs ReLU network: outputs = directions @ observation.

    Each direction takes two units of each layer, the positive part and the negative; the other
    units carry noise, so that there is something to prune.
    """
    directions = np.asarray(directions, np.float64)
    outputs, features = directions.shape
    arch = NetArch((features,), outputs, (width, width), ("relu", "relu"))
    rng = np.random.default_rng(seed)
    first = rng.normal(0, noise, (width, features))
    second = rng.normal(0, noise, (width, width))
    last = rng.normal(0, noise, (outputs, width))
    for index, direction in enumerate(directions):
        up, down = 2 * index, 2 * index + 1
        first[up], first[down] = direction, -direction
        second[up], second[down] = 0, 0
        second[up, up] = second[down, down] = 1
        last[:, [up, down]] = 0
        last[index, up], last[index, down] = 1, -1
    weights = [w.astype(np.float32) for w in (first, second, last)]
    return NumpyPolicy(spec, arch, [(w, np.zeros(len(w), np.float32)) for w in weights])


def steer_teacher(width=16):
    """Pushes against position + velocity."""
    spec = PolicySpec((3,), DiscreteActions(3), "logits", env=STEER)
    return teacher_of([[3, 3, 0], [0, 0, 0], [-3, -3, 0]], spec, width)


def glide_teacher(width=16):
    spec = PolicySpec((3,), ContinuousActions((-2.0,), (2.0,)), "mean", env=GLIDE)
    return teacher_of([[-3, -3, 0]], spec, width)


def cartpole_teacher(width=32):
    """Pushes right where 0.3·velocity + angle + angular velocity > 0: 500.0 in every episode."""
    spec = PolicySpec((4,), DiscreteActions(2), "logits", env=CARTPOLE)
    return teacher_of([[0, -1.5, -5, -5], [0, 1.5, 5, 5]], spec, width, noise=0.01)


def tiny(**changes):
    """A configuration whose compression of Steer takes a second or two."""
    config = CompressConfig(effort="quick", budget_scale=0.25, episodes=20, iterations=2)
    config = dataclasses.replace(
        config,
        distill=dataclasses.replace(config.distill, rounds=2),
        search=dataclasses.replace(config.search, candidates=4, rungs=2, rounds=1, episodes=8),
        polish=dataclasses.replace(config.polish, attempts=1, episodes=4),
    )
    return dataclasses.replace(config, **changes)


TINY_OPTIONS = [
    *("--effort", "quick", "--budget-scale", "0.25", "--episodes", "20", "--iterations", "2"),
    *("--distill.rounds", "2", "--search.candidates", "4", "--search.rungs", "2"),
    *("--search.rounds", "1", "--search.episodes", "8"),
    *("--polish.attempts", "1", "--polish.episodes", "4"),
]
"""`tiny()` on the command line."""


def environment():
    """The environment of a subprocess that can import the modules beside this one."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
        "TERM": "dumb",
    }


def pops_command(*arguments):
    return [sys.executable, "-m", "pops.cli", *map(str, arguments)]


def run_pops(*arguments, **options):
    """Run the command line in a process of its own."""
    return subprocess.run(
        pops_command(*arguments),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        check=False,
        **options,
    )
