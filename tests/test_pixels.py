"""Image observations through the whole of compress(), on a game of 12 by 12 pixels."""

import numpy as np
import pytest
from core_envs import Drift

from pops import CompressConfig, compress
from pops.arch import Conv, NetArch
from pops.artifact import Run, read_json
from pops.config import IMAGES, DistillConfig, PruneConfig, SearchConfig
from pops.evaluate import evaluate
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, EnvSpec, Normaliser, PolicySpec

DRIFT = EnvSpec("core_envs:Drift-v0", frame_stack=2)
NATURE = NetArch(
    (4, 84, 84), 3, (512,), ("relu",), (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))
)


def drift_teacher():
    """Compares the middle of what falls with the middle of the paddle, by hand-made weights.

    The first convolution copies the latest frame; the dense layers take
    weighted sums over its pixels.
    """
    height, width, _ = Drift.SHAPE
    spec = PolicySpec(
        (height, width, 2),
        DiscreteActions(3),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
        env=DRIFT,
    )
    arch = NetArch((2, height, width), 3, (8,), ("relu",), (Conv(4, 2, 1),))
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.02, (4, 2, 2, 2))
    kernel[0] = 0.0
    kernel[0, 1, 0, 0] = 1.0  # the upper left pixel of the latest frame
    columns = np.broadcast_to(np.arange(11.0), (11, 11))
    # The ball is one pixel of 1; the paddle's row 11 is cut off but for the ball's own rows, so
    # it is seen through a second filter that reads one row further down.
    kernel[1] = 0.0
    kernel[1, 1, 1, 0] = 1.0
    dense = rng.normal(0, 0.002, (8, 4, 11, 11))
    ball, paddle = np.zeros((4, 11, 11)), np.zeros((4, 11, 11))
    ball[0, :10] = columns[:10]
    paddle[1, 10] = columns[10] / (3 * 128 / 255)
    dense[0], dense[1] = ball - paddle, paddle - ball
    last = rng.normal(0, 0.002, (3, 8))
    last[0, :2], last[2, :2] = (-3.0, 3.0), (3.0, -3.0)
    weights = (kernel, dense.reshape(8, -1), last)
    biases = (np.zeros(4), np.zeros(8), np.array([0.0, 1.5, 0.0]))
    pairs = [(w.astype(np.float32), b.astype(np.float32)) for w, b in zip(weights, biases)]
    return NumpyPolicy(spec, arch, pairs)


QUICK = CompressConfig(
    iterations=1,
    distill=DistillConfig(rounds=2, states=400, updates=150),
    prune=PruneConfig(updates=120, guard_every=60, guard_episodes=8, states=200),
    search=SearchConfig(candidates=2, rungs=1, rounds=1, episodes=8),
    budget_scale=1.0,
)


def test_images_have_budgets_of_their_own_unless_others_are_given():
    usual, images = CompressConfig().resolved(), CompressConfig().resolved(images=True)
    for stage, values in IMAGES.items():
        for name, value in values.items():
            assert getattr(getattr(images, stage), name) == value
            more = (
                name in ("first_states", "states", "rounds")
                or stage + name == "distilllearning_rate"
            )
            assert more == (value > getattr(getattr(usual, stage), name))
    asked = CompressConfig(search=SearchConfig(episodes=99)).resolved(images=True)
    assert asked.search.episodes == 99
    assert asked.search.candidates == IMAGES["search"]["candidates"]
    assert (usual.iterations, images.iterations) == (8, 1)
    assert CompressConfig(iterations=3).resolved(images=True).iterations == 3
    assert CompressConfig(preset="paper").resolved(images=True).iterations == 8


def test_the_teacher_made_by_hand_plays():
    result = evaluate(drift_teacher(), DRIFT, range(60))
    assert result.mean > 3.0
    assert result.distinct == 60


@pytest.mark.slow
def test_images_are_compressed_resumed_and_the_same_for_any_workers(tmp_path):
    teacher = drift_teacher()
    one = compress(teacher, DRIFT, tmp_path / "one", QUICK, workers=1)
    two = compress(teacher, DRIFT, tmp_path / "two", QUICK, workers=2)
    same = [(run / "student.safetensors").read_bytes() for run in (one.path, two.path)]
    assert same[0] == same[1]
    assert (tmp_path / "two" / "start" / "states" / "inputs.planes.npy").is_file()
    for stage in ("iterations", "search", "manifest.json"):
        path = tmp_path / "two" / stage
        if path.is_dir():
            import shutil

            shutil.rmtree(path)
        else:
            path.unlink()
    again = compress(teacher, DRIFT, tmp_path / "two", QUICK, workers=2, resume=True)
    assert (again.path / "student.safetensors").read_bytes() == same[0]
    manifest = read_json(tmp_path / "one" / "manifest.json")
    assert manifest["verdict"]["distinct"] == 100
    assert manifest["student"]["num_parameters"] < teacher.arch.num_parameters
    assert Run(tmp_path / "one").student.arch.convs
