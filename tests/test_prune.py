"""Iterative policy pruning: schedule, masks, and the return that guards it."""

import dataclasses

import numpy as np
import pytest
from core_cases import STEER, random_policy, steer_teacher

from pops import prune
from pops.arch import Conv, NetArch
from pops.config import DistillConfig, PruneConfig
from pops.distill import Lesson, fit, folded_copy
from pops.evaluate import EvalResult
from pops.prune import (
    ReturnGuard,
    cubic_sparsity,
    iterative_policy_pruning,
    lamp_scores,
    masks_at,
    redundancy,
)
from pops.replay import ReplayBuffer
from pops.rollout import collect, label
from pops.spec import DiscreteActions, PolicySpec
from pops.weights import nonzeros
from pops.workers import Workers

ARCH = NetArch((10,), 5, (20, 30), ("relu", "relu"))
CONV = NetArch((1, 9, 9), 3, (10,), ("relu",), (Conv(6, 3, 2), Conv(5, 3, 1)))


def weights_of(arch):
    spec = PolicySpec(arch.input_shape, DiscreteActions(arch.outputs), "mean")
    return [weight for weight, _ in random_policy(arch, spec).parameters]


def test_the_cubic_schedule():
    assert [cubic_sparsity(p, 0.8) for p in (0, 0.5, 1)] == [0.0, 0.8 * 0.875, 0.8]
    assert cubic_sparsity(0.1, 1.0) == pytest.approx(1 - 0.729)
    assert cubic_sparsity(7.0, 0.9) == 0.9
    assert cubic_sparsity(-1.0, 0.9) == 0.0


def test_lamp_scores_by_hand():
    weight = np.array([[3.0, -1.0], [0.0, 2.0]], np.float32)
    np.testing.assert_allclose(lamp_scores(weight), [[9 / 9, 1 / 14], [0.0, 4 / 13]])
    # The largest weight of a layer scores 1, whatever the layer's scale.
    assert float(lamp_scores(weight * np.float32(1e-3)).max()) == 1.0


@pytest.mark.parametrize("arch", [ARCH, CONV])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.95, 1.0])
def test_masks_by_layer_keep_the_same_share_of_each(arch, sparsity):
    weights = weights_of(arch)
    masks = masks_at(weights, sparsity, "layer")
    for mask, weight in zip(masks, weights):
        kept = max(1, round((1 - sparsity) * weight.size))
        assert int(mask.sum()) == kept
        size = np.abs(weight)
        assert size[mask == 1].min() >= (size[mask == 0].max() if kept < size.size else 0)


@pytest.mark.parametrize("arch", [ARCH, CONV])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.95])
def test_masks_by_lamp_keep_the_same_share_of_the_whole(arch, sparsity):
    masks = masks_at(weights_of(arch), sparsity, "lamp")
    assert sum(int(mask.sum()) for mask in masks) == round((1 - sparsity) * arch.num_weights)
    assert all(int(mask.sum()) >= 1 for mask in masks)
    assert all(int(mask.sum()) == 1 for mask in masks_at(weights_of(arch), 1.0, "lamp"))


def test_redundancy_is_against_the_initial_network():
    assert redundancy(ARCH, (200, 60, 75)) == (0.0, 0.9, 0.5)


def steer_lesson(**changes):
    teacher = steer_teacher(16)
    config = DistillConfig(batch_size=64)
    return Lesson(teacher, STEER, 1.0, dataclasses.replace(config, **changes), seed=0)


def filled(lesson, states=256):
    buffer = ReplayBuffer(lesson.spec)
    with Workers(1) as workers:
        seen = collect(
            lesson.teacher,
            None,
            lesson.env,
            teacher_share=1.0,
            states=states,
            first_seed=1,
            workers=workers,
        )
    buffer.add(seen, label(lesson.teacher, seen))
    return buffer


@pytest.mark.parametrize("ranking", ["layer", "lamp"])
def test_pruned_weights_stay_at_zero_through_adams_momentum(ranking):
    lesson = steer_lesson()
    teacher = lesson.teacher
    config = PruneConfig(updates=200, frequency=10, target_sparsity=0.6, ranking=ranking)
    start = random_policy(teacher.arch, teacher.spec).parameters
    learner = lesson.learner(teacher.arch, start)
    run = prune._Pruning(learner, config)
    zero_counts = []

    def after(update):
        run.after_update(update)
        zero_counts.append(sum(int((w == 0).sum()) for w in learner.weights()))

    fit(
        learner,
        filled(lesson),
        updates=200,
        batch_size=32,
        learning_rate=lambda _: 1e-2,
        rng=np.random.default_rng(0),
        after_update=after,
    )
    total = teacher.arch.num_weights
    assert zero_counts == sorted(zero_counts)
    end = 150 // 10
    for step in (1, 5, end, end + 3):
        sparsity = cubic_sparsity(step / end, 0.6)
        assert zero_counts[step * 10 - 1] == pytest.approx(sparsity * total, abs=3)
    assert total - zero_counts[-1] == sum(nonzeros(learner.parameters()))
    assert zero_counts[-1] == pytest.approx(0.6 * total, abs=3)


def scripted(monkeypatch, means):
    """The guard hears these mean returns, one for each evaluation; students are kept."""
    heard, students = iter(means), []

    def evaluate(policy, env, seeds, workers):
        students.append(policy)
        value = np.full(len(seeds), next(heard))
        return EvalResult(tuple(seeds), value, np.ones(len(seeds), np.int64))

    monkeypatch.setattr(prune, "evaluate", evaluate)
    return students


GUARD = ReturnGuard(lower_bound=5.0, objective=10.0, seeds=(1, 2))
SCHEDULE = PruneConfig(
    updates=120, frequency=5, guard_every=20, patience=3, states=16, target_sparsity=0.9
)


def run_pruning(lesson, guard=GUARD, config=SCHEDULE):
    teacher = lesson.teacher
    points = []
    with Workers(1) as workers:
        pruned = iterative_policy_pruning(
            teacher.arch,
            folded_copy(teacher, 1.0),
            filled(lesson),
            lesson,
            guard,
            config,
            workers,
            (1, 1),
            points.append,
        )
    assert tuple(points) == pruned.curve
    return pruned


def test_pruning_stops_under_the_lower_bound_and_goes_on_at_the_objective(monkeypatch):
    students = scripted(monkeypatch, [10.0, 4.9, 9.9, 10.0, 7.0, 10.0])
    pruned = run_pruning(steer_lesson())
    assert [point.pruning for point in pruned.curve] == [True, True, False, False, True, True]
    left = [point.nonzeros for point in pruned.curve]
    assert left[1] < left[0]
    assert left[1] == left[2] == left[3]  # recovering: no weight is pruned, none grows back
    assert left[5] < left[4] < left[3]  # 7.0 lies between the bounds: pruning goes on
    # The sparsest that met the objective is kept.
    assert sum(pruned.nonzeros_per_layer) == left[5]
    assert nonzeros(students[5].parameters) == pruned.nonzeros_per_layer
    assert pruned.sparsity == 1 - left[5] / students[5].arch.num_weights
    assert pruned.updates == 120
    assert pruned.states == 6 * 16


def test_a_student_that_does_not_recover_ends_pruning(monkeypatch):
    scripted(monkeypatch, [11.0, 4.0, 6.0, 6.0, 99.0, 99.0])
    pruned = run_pruning(steer_lesson())
    assert [point.mean for point in pruned.curve] == [11.0, 4.0, 6.0, 6.0]
    assert sum(pruned.nonzeros_per_layer) == pruned.curve[0].nonzeros


def test_where_nothing_met_the_objective_the_start_is_kept(monkeypatch):
    scripted(monkeypatch, [4.0, 4.0, 4.0])
    lesson = steer_lesson()
    pruned = run_pruning(lesson)
    teacher = lesson.teacher
    assert pruned.nonzeros_per_layer == nonzeros(teacher.parameters)
    assert pruned.sparsity == 1 - sum(nonzeros(teacher.parameters)) / teacher.arch.num_weights


def test_on_a_real_environment_it_finds_what_a_teacher_does_not_need():
    lesson = steer_lesson()
    config = dataclasses.replace(SCHEDULE, updates=300, guard_every=50)
    guard = ReturnGuard(5.0, 18.0, tuple(range(8)))
    first, again = run_pruning(lesson, guard, config), run_pruning(lesson, guard, config)
    assert first.sparsity > 0.5
    assert max(p.mean for p in first.curve) >= 18.0
    assert first.curve == again.curve
    for (w, b), (x, c) in zip(first.parameters, again.parameters):
        assert w.tobytes() == x.tobytes()
        assert b.tobytes() == c.tobytes()


class Pictures:
    """Images one of whose quadrants is bright; the action names the quadrant."""

    def __init__(self):
        import gymnasium as gym

        self.observation_space = gym.spaces.Box(0, 255, (9, 9, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.rng, self.steps = np.random.default_rng(seed), 0
        return self._picture(), {}

    def _picture(self):
        self.bright = int(self.rng.integers(3))
        picture = self.rng.integers(0, 60, (9, 9, 1), dtype=np.uint8)
        row, column = divmod(self.bright, 2)
        picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
        return picture

    def step(self, action):
        reward, self.steps = float(action == self.bright), self.steps + 1
        return self._picture(), reward, self.steps == 10, False, {}

    def close(self):
        pass


def test_convolutional_networks_go_through_the_same_code():
    from pops.shrink import shrink
    from pops.spec import Normaliser

    spec = PolicySpec(
        (9, 9, 1),
        DiscreteActions(3),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    teacher = random_policy(CONV, spec, scale=1.5)
    lesson = Lesson(teacher, Pictures, 1.0, DistillConfig(batch_size=32), seed=0)
    guard = ReturnGuard(-1.0, -0.5, (1,))
    pruned = run_pruning(lesson, guard, SCHEDULE)
    assert len(pruned.nonzeros_per_layer) == 4
    assert pruned.sparsity > 0.5
    smaller = shrink(CONV, CONV, pruned.nonzeros_per_layer)
    assert smaller.num_parameters < CONV.num_parameters
    assert smaller.layers()[2].weight[1] == 4 * smaller.convs[1].channels
