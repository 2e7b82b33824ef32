"""Collecting states: who acts, from which seeds, and that workers do not matter."""

from contextlib import closing

import numpy as np
import pytest
from core_cases import GLIDE, STEER, glide_teacher, random_policy, steer_teacher

from pops.envs import make_env
from pops.errors import EnvironmentFailure
from pops.replay import ReplayBuffer
from pops.rollout import (
    TASKS,
    Rollout,
    Sampler,
    collect,
    evaluate_sampling,
    label,
    play_sampling,
)
from pops.spec import EnvSpec
from pops.workers import Workers


class Recording:
    """A policy that counts the observations on which it acted, and always pushes right."""

    def __init__(self, spec):
        self.spec, self.seen = spec, 0

    def act(self, observations):
        self.seen += len(observations)
        return np.full(len(observations), 2)


@pytest.fixture(scope="module")
def one():
    with Workers(1) as workers:
        yield workers


@pytest.fixture(scope="module")
def two():
    with Workers(2) as workers:
        yield workers


def visit(workers, teacher_share=1.0, student=None, env=STEER, teacher=None, **changes):
    options = {"states": 203, "first_seed": 1000, **changes}
    return collect(
        teacher or steer_teacher(),
        student,
        env,
        teacher_share=teacher_share,
        workers=workers,
        **options,
    )


@pytest.mark.parametrize("case", ["teacher", "mixture", "sampled", "continuous"])
def test_the_states_do_not_depend_on_the_workers(case, one, two):
    teacher = glide_teacher() if case == "continuous" else steer_teacher()
    options = {"teacher": teacher, "env": GLIDE if case == "continuous" else STEER}
    if case in ("mixture", "continuous"):
        student = random_policy(teacher.arch, teacher.spec, seed=5)
        options.update(student=student, teacher_share=0.5)
    if case == "sampled":
        options.update(sampler=Sampler(teacher.spec))
    expected = visit(one, **options)
    assert expected.shape == (203, 3)
    assert visit(two, **options).tobytes() == expected.tobytes()
    assert visit(one, **options).tobytes() == expected.tobytes()


def test_the_teachers_share_is_kept(one):
    teacher = steer_teacher()
    for share, low, high in ((1.0, 0, 0), (0.0, 400, 400), (0.25, 250, 350)):
        student = Recording(teacher.spec)
        teaching = Recording(teacher.spec)
        visit(one, share, student, teacher=teaching, states=400)
        # Whoever acts is asked about the batch of two, so that its share shows by batches.
        assert low <= student.seen <= 400 + TASKS
        if share in (0.0, 1.0):
            assert student.seen == high
            assert teaching.seen == 400 - high


def test_states_come_from_the_seeds_given(one):
    states = visit(one, states=8, first_seed=50)
    env = make_env(STEER)
    starts = {env.reset(seed=seed)[0].tobytes() for seed in range(50, 50 + 8 + 4 * 4)}
    assert states[0].tobytes() == env.reset(seed=50)[0].tobytes()
    assert sum(row.tobytes() in starts for row in states) == 8


def test_the_buffer_keeps_everything_and_copies_grow_alone():
    teacher = steer_teacher()
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 4))
    buffer = ReplayBuffer(teacher.spec)
    buffer.add(first, label(teacher, first))
    copy = buffer.copy()
    copy.add(second, label(teacher, second))
    assert (len(buffer), len(copy)) == (5, 9)
    inputs, labels = copy.arrays()
    np.testing.assert_array_equal(inputs, np.concatenate([first, second]))
    np.testing.assert_array_equal(labels, teacher.outputs(inputs))
    assert len(buffer.arrays()[0]) == 5
    chosen, wanted = copy.batch(np.array([8, 0]))
    np.testing.assert_array_equal(chosen, inputs[[8, 0]])
    np.testing.assert_array_equal(wanted, labels[[8, 0]])


def test_labels_do_not_depend_on_the_chunk():
    teacher = steer_teacher()
    states = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert label(teacher, states, chunk=7).tobytes() == teacher.outputs(states).tobytes()


def test_sampling_follows_the_softmax_and_the_deviation():
    steer, glide = steer_teacher(), glide_teacher()
    outputs = np.tile(np.log(np.float32([[0.1, 0.3, 0.6]])), (6000, 1))
    rng = np.random.default_rng(0)
    shares = np.bincount(Sampler(steer.spec).sample(outputs, [rng] * 6000)) / 6000
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.6], atol=0.02)
    sampler = Sampler(glide.spec, (float(np.log(0.1)),))
    actions = sampler.sample(np.full((6000, 1), 0.5, np.float32), [rng] * 6000)
    assert actions.mean() == pytest.approx(0.5, abs=0.01)
    assert actions.std() == pytest.approx(0.1, abs=0.01)
    far = sampler.sample(np.full((100, 1), 9.0, np.float32), [rng] * 100)
    assert far.max() == 2.0


def test_sampled_episodes_are_a_function_of_their_seeds():
    teacher = steer_teacher()
    sampler = Sampler(teacher.spec)
    together = play_sampling(teacher, sampler, STEER, range(5))
    with Workers(2) as workers:
        divided = evaluate_sampling(teacher, sampler, STEER, range(5), workers)
    assert divided.returns.tobytes() == together.returns.tobytes()
    alone = play_sampling(teacher, sampler, STEER, [3])
    assert alone.returns[0] == together.returns[3]


def test_an_environment_that_fails_while_collecting_is_named(one):
    with pytest.raises(EnvironmentFailure, match=r"world ended \(episode seed 1000, step 3\)"):
        visit(one, env=EnvSpec("core_envs:Raises-v0"))


def test_long_episodes_are_seen_at_every_age(one, two):
    clock = EnvSpec("core_envs:Clock-v0")
    ages = []
    for first_seed in range(0, 40_000, 1000):
        states = visit(one, env=clock, states=80, first_seed=first_seed, episode_steps=200)
        ages.append(states[:, 0])
    ages = np.concatenate(ages)
    assert len(ages) == 40 * 80
    share = np.histogram(ages, bins=4, range=(0, 200))[0] / len(ages)
    assert share.min() > 0.15
    # Two runs of ten consecutive steps in each of four parts.
    part = np.sort(states[:20, 0])
    assert (np.diff(part) <= 1).sum() >= 18
    again = visit(two, env=clock, states=80, first_seed=39_000, episode_steps=200)
    assert again.tobytes() == states.tobytes()
    early = visit(one, env=clock, states=80, first_seed=0, episode_steps=19)
    assert early.tobytes() == visit(one, env=clock, states=80, first_seed=0).tobytes()
    assert early[:, 0].max() < 10


def test_a_round_goes_on_with_long_episodes_where_the_last_one_stopped(one):
    clock, teacher = EnvSpec("core_envs:Clock-v0"), steer_teacher()
    with closing(Rollout(teacher, clock, 80, episode_steps=200)) as rollout:
        first, labels = rollout.collect(None, 1.0, 5000)
        second, _ = rollout.collect(None, 1.0, 9000)
    assert (
        first.tobytes()
        == visit(one, env=clock, states=80, first_seed=5000, episode_steps=200).tobytes()
    )
    np.testing.assert_array_equal(labels, teacher.outputs(first))
    for part in range(4):
        # Both places of a part go on with the step after the last one that was visited.
        begin = first[20 * part : 20 * part + 20, 0].max() + 1
        ages = second[20 * part : 20 * part + 20, 0]
        np.testing.assert_array_equal(ages, np.repeat((begin + np.arange(10)) % 200, 2))


def test_rounds_of_short_episodes_begin_anew(one):
    clock, teacher = EnvSpec("core_envs:Clock-v0"), steer_teacher()
    with closing(Rollout(teacher, clock, 80, episode_steps=19)) as rollout:
        rollout.collect(None, 1.0, 5000)
        second, _ = rollout.collect(None, 1.0, 9000)
    assert second.tobytes() == visit(one, env=clock, states=80, first_seed=9000).tobytes()


@pytest.mark.parametrize("episode_steps", [19, 200])
def test_a_round_does_not_depend_on_the_workers(two, episode_steps):
    clock, teacher = EnvSpec("core_envs:Clock-v0"), steer_teacher()
    found = []
    for workers in (None, two):
        with closing(Rollout(teacher, clock, 80, episode_steps=episode_steps)) as rollout:
            rollout.collect(None, 1.0, 5000, workers)
            found.append(rollout.collect(None, 1.0, 9000, workers))
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert found[0][1].tobytes() == found[1][1].tobytes()
