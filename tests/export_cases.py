"""Policies and runs that the export tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from pops.arch import Conv, NetArch
from pops.artifact import save_policy, write_arrays, write_json
from pops.evaluate import play
from pops.policy import NumpyPolicy
from pops.spec import (
    Array,
    ContinuousActions,
    DiscreteActions,
    EnvSpec,
    Normaliser,
    PolicySpec,
)
from pops_export.chatter import to_log
from pops_export.config import ExportConfig
from pops_export.export import export
from pops_export.onnx_file import quantise_onnx, write_onnx
from pops_export.recorder import Recorder
from pops_export.stage import for_integers, plain
from pops_export.tflite_file import convert, quantise
from pops_export.tflite_surgery import tidy

CARTPOLE = EnvSpec("CartPole-v1")


def random_policy(spec: PolicySpec, arch: NetArch, seed: int = 0) -> NumpyPolicy:
    rng = np.random.default_rng(seed)
    parameters = []
    for layer in arch.layers():
        fan_in = np.prod(layer.weight[1:])
        weight = rng.normal(0, 1 / np.sqrt(fan_in), layer.weight).astype(np.float32)
        parameters.append((weight, rng.normal(0, 0.1, layer.weight[0]).astype(np.float32)))
    return NumpyPolicy(spec, arch, parameters)


def cartpole_policy(hidden: int = 0, offset: float = 0.0) -> NumpyPolicy:
    """Pushes right if 0.3·ẋ + θ + θ̇ > 0, which returns 500; `offset` shifts both Q-values."""
    rule = np.array([0.0, 0.3, 1.0, 1.0], np.float32)
    spec = PolicySpec((4,), DiscreteActions(2), "q_values", env=CARTPOLE)
    bias = np.full(2, offset, np.float32)
    if not hidden:
        return NumpyPolicy(spec, NetArch((4,), 2), [(np.stack([-rule, rule]) / 2, bias)])
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.05, (hidden, 4)).astype(np.float32)
    first[0], first[1] = rule, -rule
    last = np.zeros((2, hidden), np.float32)
    last[:, :2] = [[-0.5, 0.5], [0.5, -0.5]]
    arch = NetArch((4,), 2, (hidden,), ("relu",))
    return NumpyPolicy(spec, arch, [(first, np.zeros(hidden, np.float32)), (last, bias)])


def make_run(
    path: Path,
    policy: NumpyPolicy,
    *,
    teacher: NumpyPolicy | None = None,
    passed: bool = True,
    states: Array | None = None,
    env: EnvSpec | None = CARTPOLE,
) -> Path:
    """What `pops compress` leaves, as far as exports read it."""
    path.mkdir(parents=True, exist_ok=True)
    save_policy(path / "student.safetensors", policy)
    save_policy(path / "teacher.safetensors", teacher or policy)
    if states is None:
        recorder = Recorder(policy)
        play(recorder, CARTPOLE, range(100, 110))
        states = recorder.states(3000)
    write_arrays(path / "states.npz", {"observations": states})
    manifest = {
        "format": "pops-run-1",
        "verdict": {"passed": passed, "reason": "On 100 paired episodes it lost 12.00."},
        "env": None
        if env is None
        else {"id": env.id, "kwargs": {}, "wrappers": [], "frame_stack": 0},
        "gate": {"looks": [], "next_seed": 600_000_000},
    }
    write_json(path / "manifest.json", manifest)
    return path


def shared(base: Path, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that is built once for all of pytest's worker processes."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with FileLock(str(base / f"{name}.lock")):
        if not done.exists():
            build(folder)
            done.touch()
    return folder


def dense_case() -> tuple[NumpyPolicy, Array]:
    """Normalised observations of very different size, continuous actions, Tanh."""
    rng = np.random.default_rng(3)
    size = np.array([100.0, 0.01, 1.0], np.float32)
    spec = PolicySpec(
        (3,),
        ContinuousActions((-2.0, -1.0), (2.0, 3.0), "tanh"),
        "mean",
        normaliser=Normaliser((5.0, 0.001, 0.0), (100.0, 0.01, 1.0), 10.0),
    )
    arch = NetArch((3,), 2, (6, 5), ("tanh", "relu"))
    states = rng.normal(size=(600, 3)).astype(np.float32) * size
    return random_policy(spec, arch), states


def image_case() -> tuple[NumpyPolicy, Array]:
    """Small images, two convolutions."""
    spec = PolicySpec(
        (14, 15, 2),
        DiscreteActions(3),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    arch = NetArch((2, 14, 15), 3, (9,), ("relu",), (Conv(4, 3, 2), Conv(3, 3, 1)))
    states = np.random.default_rng(1).integers(0, 256, (200, 14, 15, 2)).astype(np.uint8)
    return random_policy(spec, arch), states


def selected_case() -> tuple[NumpyPolicy, Array]:
    """Reads three of five features of very different size; actions start at 2."""
    spec = PolicySpec((5,), DiscreteActions(3, start=2), "logits")
    states = np.random.default_rng(2).normal(size=(300, 5)) * [1, 50, 1, 0.02, 1000]
    policy = random_policy(spec, NetArch((5,), 3, (7,), ("relu",), inputs=(3, 0, 1)))
    return policy, states.astype(np.float32)


CASES = {"dense": dense_case, "image": image_case, "selected": selected_case}
RECIPES = ("static_wi8_ai8", "static_wi8_ai16", "dynamic_wi8_afp32")


def onnx_files(base: Path) -> Path:
    """A folder with CASE.onnx and CASE.int8.onnx."""

    def build(folder: Path) -> None:
        folder.mkdir()
        with to_log(folder / "log"):
            for name, case in CASES.items():
                policy, states = case()
                write_onnx(plain(policy), folder / f"{name}.onnx")
                network = for_integers(policy, states)
                quantise_onnx(network, folder / f"{name}.int8.onnx", states, folder)

    return shared(base, "onnx-files", build)


def tflite_files(base: Path) -> Path:
    """A folder with CASE.fp32 and CASE.RECIPE, all with float32 ends."""

    def build(folder: Path) -> None:
        folder.mkdir()
        with to_log(folder / "log"):
            for name, case in CASES.items():
                policy, states = case()
                (folder / f"{name}.fp32").write_bytes(tidy(convert(plain(policy))))
                network = for_integers(policy, states)
                prepared = convert(network)
                for recipe in RECIPES:
                    model = tidy(quantise(prepared, network, recipe, states))
                    (folder / f"{name}.{recipe}").write_bytes(model)

    return shared(base, "tflite-files", build)


CARTPOLE_EPISODES = 10


def cartpole_run(base: Path) -> Path:
    """A run with the artifact of a 58-parameter student, all formats."""

    def build(folder: Path) -> None:
        make_run(folder, cartpole_policy(8))
        export(ExportConfig(folder, episodes=CARTPOLE_EPISODES, workers=1))

    return shared(base, "cartpole-run", build)
