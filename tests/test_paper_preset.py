"""`--preset paper`: the method as published, on a tiny budget."""

import dataclasses

import numpy as np
import pytest
from core_cases import STEER, steer_teacher, tiny

from pops import rollout
from pops.artifact import read_arrays
from pops.config import CompressConfig
from pops.pipeline import compress
from pops.policy import NumpyPolicy
from pops.prune import cubic_sparsity


def test_the_settings_are_the_papers():
    paper = CompressConfig(preset="paper").resolved()
    assert paper.distill.temperature == 0.01
    assert paper.distill.student_states is False
    assert paper.distill.standardise is False
    assert paper.distill.race_warm_start is False
    assert paper.prune.ranking == "layer"
    assert paper.search.enabled is False
    assert paper.polish.enabled is False
    assert paper.convergence == 0.05
    given = dataclasses.replace(CompressConfig().distill, temperature=1.0)
    assert CompressConfig(preset="paper", distill=given).resolved().distill.temperature == 1.0


def test_the_budget_scales_and_nothing_else_does():
    one = CompressConfig(preset="paper").resolved()
    tenth = CompressConfig(preset="paper", budget_scale=0.1).resolved()
    assert tenth.prune.updates == one.prune.updates // 10
    assert tenth.distill.states == one.distill.states // 10
    assert tenth.distill.rounds == one.distill.rounds
    assert tenth.prune.frequency == one.prune.frequency
    thorough = CompressConfig(effort="thorough").resolved()
    assert thorough.prune.updates == 3 * CompressConfig().resolved().prune.updates


def teacher_without_zeros():
    """Units that never fire keep exact zeros through training, which would count as pruned."""
    policy, rng = steer_teacher(), np.random.default_rng(0)
    parameters = [
        (weight + rng.normal(0, 1e-2, weight.shape).astype(np.float32), bias)
        for weight, bias in policy.parameters
    ]
    return NumpyPolicy(policy.spec, policy.arch, parameters)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A compression, and who acted in each of its collections of states."""
    students = []
    original = rollout._collect_part

    def watched(walk):
        students.append(walk.student)
        return original(walk)

    out = tmp_path_factory.mktemp("paper") / "run"
    config = tiny(preset="paper", budget_scale=0.05)
    distill = dataclasses.replace(config.distill, temperature=1.0)
    # The updates between two evaluations do not scale with the budget.
    prune = dataclasses.replace(config.prune, guard_every=10)
    config = dataclasses.replace(config, distill=distill, prune=prune)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "_collect_part", watched)
        result = compress(teacher_without_zeros(), STEER, out, config, workers=1)
    return result, students


@pytest.mark.slow
def test_states_are_the_teachers_alone(run):
    _, students = run
    assert len(students) > 20
    assert all(student is None for student in students)


@pytest.mark.slow
def test_there_is_no_search_no_polish_and_no_inherited_start(run):
    result, _ = run
    stages = {path.name for path in result.path.iterdir() if path.is_dir()}
    assert "search" not in stages
    assert {entry["stage"] for entry in result.manifest["ladder"]} == {"iteration"}
    distilled = [e for e in result.manifest["iterations"] if "start" in e]
    assert distilled
    assert {entry["start"] for entry in distilled} == {"fresh"}


@pytest.mark.slow
def test_layers_are_pruned_to_the_same_sparsity_on_the_cubic_schedule(run):
    result, _ = run
    config = CompressConfig(preset="paper", effort="quick", budget_scale=0.05)
    prune = config.resolved().prune
    entry = result.manifest["iterations"][0]
    weights = [16 * 3, 16 * 16, 3 * 16]
    shares = [1 - left / n for left, n in zip(entry["nonzeros_per_layer"], weights)]
    assert max(shares) - min(shares) < 0.06
    end = max(1, int(0.75 * prune.updates) // prune.frequency)
    for point in entry["curve"]:
        if point["pruning"]:
            wanted = cubic_sparsity(point["update"] // prune.frequency / end, prune.target_sparsity)
            assert point["sparsity"] == pytest.approx(wanted, abs=0.02)


@pytest.mark.slow
def test_teacher_states_are_states_of_teacher_episodes(run):
    result, _ = run
    states = read_arrays(result.path / "start/states/arrays.npz")["inputs"]
    teacher = teacher_without_zeros()
    # Along an episode the position moves by 0.3 of the velocity that the teacher's push makes.
    first, second = states[0:40:2], states[2:42:2]
    push = teacher.act(first) - 1.0
    velocity = 0.8 * first[:, 1] + 0.3 * push
    np.testing.assert_allclose(second[:-1, 1], velocity[:-1], atol=1e-5)
