"""Polish by policy gradient, on a game of 12 by 12 pixels."""

import dataclasses
import functools
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_pixels import DRIFT, drift_teacher
from test_pixels import QUICK as QUICK_COMPRESSION

from pops import compress
from pops.actor_critic import ActorCritic, begin_as, falling_rate, new_model
from pops.artifact import read_json
from pops.candidate import Candidate
from pops.config import CompressConfig, DistillConfig, PolishConfig
from pops.distill import Lesson
from pops.envs import make_env
from pops.errors import EnvironmentFailure, UsageError
from pops.evaluate import evaluate
from pops.journal import Journal
from pops.policy import NumpyPolicy
from pops.reinforce import (
    ReinforceConfig,
    better,
    can_reinforce,
    reinforce,
    training_sources,
)
from pops.rounds import Segment, segments
from pops.seeds import training_block
from pops.sharpen import entropy_share, further
from pops.spec import EnvSpec, Normaliser
from pops.tracking import Tracker
from pops.validate import check
from pops.workers import Workers

DRIFT_SHAPE = (12, 12, 2)
QUICK = ReinforceConfig(
    steps=20_480,
    environments=1,
    threads=1,
    critic_steps=4096,
    rollout=1024,
    batch_size=256,
    learning_rate=2e-4,
)


def lesson() -> Lesson:
    return Lesson(drift_teacher(), DRIFT, 1.0, DistillConfig(), 0)


def beginner() -> Candidate:
    """The teacher made by hand, with noise on its weights: it catches some of what falls."""
    teacher = drift_teacher()
    rng = np.random.default_rng(1)
    noisy = [
        (w + rng.normal(0, 0.35 * np.abs(w).max(), w.shape).astype(np.float32), b)
        for w, b in teacher.parameters
    ]
    return Candidate("beginner", teacher.arch, noisy)


def state(seed: int) -> np.ndarray:
    """What is seen some steps into an episode."""
    env = make_env(DRIFT)
    observation, _ = env.reset(seed=seed)
    for _ in range(seed % 6):
        observation, *_ = env.step(seed % 3)
    return np.asarray(observation)


def images() -> np.ndarray:
    return drift_teacher().spec.preprocess(np.stack([state(seed) for seed in range(256)]))


def polished(config: ReinforceConfig, seen: list[int], **how) -> Candidate:
    def watch(steps, _):
        seen.append(steps)

    learnt = reinforce(beginner(), lesson(), config, images(), (7,), watch, **how)
    with Workers(1) as workers:
        return better(beginner(), learnt, lesson(), range(100), workers)


def model_of(candidate: Candidate, config: ReinforceConfig):
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = DummyVecEnv([lambda: make_env(DRIFT)])
    model = new_model(env, lesson().spec, candidate.arch, config, 0)
    begin_as(model.policy, candidate, config, images())
    return model


def test_the_actor_is_the_student_before_it_learns():
    candidate, student = beginner(), lesson()
    model = model_of(candidate, dataclasses.replace(QUICK, entropy_share=0.25))
    observations = np.stack([state(seed) for seed in range(256)])
    policy = candidate.policy(student)
    actions, _ = model.predict(observations, deterministic=True)
    assert np.array_equal(actions, policy.act(observations))
    learnt = dataclasses.replace(candidate, parameters=model.policy.parameters_of_actor())
    sharper = learnt.policy(student).outputs(observations)
    factor = model.policy.sharpened
    assert np.allclose(sharper, factor * policy.outputs(observations), rtol=1e-4, atol=1e-4)
    assert entropy_share(sharper) == pytest.approx(0.25, abs=1e-3)


def test_batches_reach_the_convolutions_as_they_came():
    """No copy but the one to float32: the buffer has the channels where convolutions want them."""
    model = model_of(beginner(), QUICK)
    model.learn(1)
    kept = model.rollout_buffer.observations
    assert kept.shape[-3:] == DRIFT_SHAPE
    assert kept.dtype == np.uint8
    batch = torch.from_numpy(kept.reshape(-1, *DRIFT_SHAPE))
    turned = batch.permute(0, 3, 1, 2)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    inputs = model.policy.features_extractor.inputs(batch)
    assert np.allclose(inputs.numpy(), lesson().spec.preprocess(batch.numpy()), atol=1e-6)


def test_logits_grow_while_it_learns():
    model = model_of(beginner(), QUICK)
    observations = torch.from_numpy(np.stack([state(seed) for seed in range(16)]))

    def probabilities() -> torch.Tensor:
        return model.policy.get_distribution(observations).distribution.probs.detach()

    before = probabilities()
    model.policy.further = further(2.0, 0.5)
    sharper = before**1.5 / (before**1.5).sum(1, keepdim=True)
    assert torch.allclose(probabilities(), sharper, atol=1e-5)
    assert [further(3.0, progress) for progress in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]


def test_logits_grow_over_all_segments(monkeypatch):
    """From one rollout to the next; not while the critic learns alone."""
    asked: list[tuple[float, float]] = []

    def watched(growth, progress):
        asked.append((growth, progress))
        return further(growth, progress)

    monkeypatch.setattr("pops.reinforce.further", watched)
    config = dataclasses.replace(QUICK, steps=3072, critic_steps=2048, segment=2048, growth=2.0)
    reinforce(beginner(), lesson(), config, images(), (7,))
    critic, *learning = [progress for _, progress in asked]
    assert critic == 0
    assert learning == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])


@pytest.mark.slow
def test_the_return_grows():
    seen: list[int] = []
    after = polished(QUICK, seen)
    before = evaluate(beginner().policy(lesson()), DRIFT, range(100))
    assert after.name == "beginner+polish"
    assert after.result is not None
    assert after.result.mean > before.mean + 0.4
    assert seen[-1] == QUICK.steps


def test_the_same_seed_gives_the_same_weights():
    config = dataclasses.replace(QUICK, steps=2048, critic_steps=1024)
    first, second = polished(config, []), polished(config, [])
    assert first.result.mean == second.result.mean
    for (w1, b1), (w2, b2) in zip(first.parameters, second.parameters):
        assert np.array_equal(w1, w2)
        assert np.array_equal(b1, b2)


def test_games_are_begun_on_training_seeds(monkeypatch):
    """The first reset of training, whatever seeds the library deals out before."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    used: list[int] = []
    reset = DummyVecEnv.reset

    def watched(env):
        used.extend(seed for seed in env._seeds if seed is not None)
        return reset(env)

    monkeypatch.setattr(DummyVecEnv, "reset", watched)
    polished(dataclasses.replace(QUICK, steps=1024, critic_steps=1024), [])
    assert used == [training_block(0, "reinforce", 7, segment) for segment in (0, 1)]
    assert all(250_000_000 <= seed < 500_000_000 for seed in used)


def test_it_goes_on_after_a_stop_as_if_there_had_been_none(tmp_path):
    """Three segments in one process, and the last two of them in another after the first."""
    config = dataclasses.replace(QUICK, steps=3072, critic_steps=1024, segment=1024)
    seen: list[int] = []
    whole = polished(config, seen)
    assert seen == [1024, 2048, 3072]

    def stopped(name, make):
        if name == "02":
            raise KeyboardInterrupt
        return journal.stage(name, make)

    journal = Journal(tmp_path / "run", {}, resume=False, overwrite=False)
    with pytest.raises(KeyboardInterrupt):
        polished(config, [], stage=stopped)
    rest: list[int] = []
    resumed = polished(config, rest, stage=journal.stage)
    assert rest == [2048, 3072]
    assert resumed.result.mean == whole.result.mean
    for (w1, b1), (w2, b2) in zip(whole.parameters, resumed.parameters):
        assert np.array_equal(w1, w2)
        assert np.array_equal(b1, b2)


def test_the_student_is_the_mean_of_the_last_half(monkeypatch):
    """Over segments: of four updates the third and the fourth."""
    seen = []
    folded = ActorCritic.parameters_of_actor

    def watched(policy):
        seen.append(folded(policy))
        return seen[-1]

    monkeypatch.setattr(ActorCritic, "parameters_of_actor", watched)
    config = dataclasses.replace(QUICK, steps=4096, critic_steps=1024, segment=1024)
    learnt = reinforce(beginner(), lesson(), config, images(), (7,))
    # Nothing is averaged in the first three segments, of which one is the critic's.
    assert len(seen) == 5
    assert not np.array_equal(seen[3][0][0], seen[4][0][0])
    for layer, (weight, bias) in enumerate(learnt.parameters):
        assert np.allclose(weight, np.mean([p[layer][0] for p in seen[3:]], 0), atol=1e-6)
        assert np.allclose(bias, np.mean([p[layer][1] for p in seen[3:]], 0), atol=1e-6)


def parts_of(config: ReinforceConfig) -> list[Segment]:
    return list(segments(config.critic_steps, config.steps, config.segment, config.round))


def test_the_rate_falls_over_all_segments_of_a_round():
    config = dataclasses.replace(QUICK, steps=8000, segment=1000, round=4000)
    rates = [falling_rate(1.0, part) for part in parts_of(config) if part.number]
    assert [rate(1.0) for rate in rates] == [1.0, 0.75, 0.5, 0.25] * 2
    assert [rate(0.0) for rate in rates] == [0.75, 0.5, 0.25, 0.1] * 2


@pytest.mark.parametrize(
    ("steps", "rounds"),
    [
        (5_000_000, [1_024_000] * 4 + [904_000]),
        (1_500_000, [819_200, 680_800]),
        (300_000, [300_000]),
        (1_024_001, [614_400, 409_601]),
        (1, [1]),
    ],
)
def test_steps_are_divided_evenly_among_rounds(steps, rounds):
    parts = parts_of(ReinforceConfig(steps))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert parts[0].steps == ReinforceConfig.critic_steps
    learning = parts[1:]
    assert [part.done for part in learning] == [
        sum(p.steps for p in learning[:index]) for index in range(len(learning))
    ]
    assert max(part.steps for part in learning) <= ReinforceConfig.segment
    assert [part.round_steps for part in learning if part.closes_round] == rounds
    assert [part.round_steps for part in parts if part.opens_round] == rounds
    assert [part.progress(part.steps) for part in learning if part.closes_round] == [1] * len(
        rounds
    )


TWO_ROUNDS = dataclasses.replace(QUICK, steps=4096, critic_steps=1024, segment=1024, round=2048)


def test_a_round_begins_as_the_last_ones_student(monkeypatch):
    """Its likeliest actions, as decided and held as the first; what the critic knows is kept."""
    began, students, critics = [], [], []
    begin = begin_as

    def watched(policy, candidate, config, images):
        begin(policy, candidate, config, images)
        began.append((candidate, policy.anchor, policy.critic_layers()[0].detach().clone()))

    monkeypatch.setattr("pops.actor_critic.begin_as", watched)

    def kept(name, make):
        result = make()
        students.append(result.policies["student"])
        critics.append(result.arrays["policy/mlp_extractor.value_net.0.weight"])
        return result

    learnt = reinforce(beginner(), lesson(), TWO_ROUNDS, images(), (7,), stage=kept)
    assert len(began) == len(students) == 5
    for index, (candidate, anchor, critic) in enumerate(began):
        expected = beginner().parameters if index < 3 else students[2].parameters
        for (w1, b1), (w2, b2), (w3, b3) in zip(candidate.parameters, expected, anchor.folded()):
            assert np.array_equal(w1, w2)
            assert np.array_equal(b1, b2)
            assert np.array_equal(w1, w3)
            assert np.array_equal(b1, b3)
        if index:
            assert np.array_equal(critic.numpy(), critics[index - 1])
    assert not np.array_equal(students[2].parameters[0][0], beginner().parameters[0][0])
    assert np.array_equal(learnt.parameters[0][0], students[4].parameters[0][0])


def test_it_goes_on_in_the_middle_of_a_round(tmp_path):
    whole = reinforce(beginner(), lesson(), TWO_ROUNDS, images(), (7,))
    journal = Journal(tmp_path / "run", {}, resume=False, overwrite=False)
    for stop in ("03", "04"):

        def stopped(name, make, stop=stop):
            if name == stop:
                raise KeyboardInterrupt
            return journal.stage(name, make)

        with pytest.raises(KeyboardInterrupt):
            reinforce(beginner(), lesson(), TWO_ROUNDS, images(), (7,), stage=stopped)
    resumed = reinforce(beginner(), lesson(), TWO_ROUNDS, images(), (7,), stage=journal.stage)
    for (w1, b1), (w2, b2) in zip(whole.parameters, resumed.parameters):
        assert np.array_equal(w1, w2)
        assert np.array_equal(b1, b2)


def test_no_round_begins_once_a_student_is_good_enough():
    shown: list[Candidate] = []

    def enough(student):
        shown.append(student)
        return len(shown) == 2

    seen: list[int] = []
    config = dataclasses.replace(TWO_ROUNDS, round=1024)
    learnt = reinforce(
        beginner(), lesson(), config, images(), (7,), lambda n, _: seen.append(n), enough=enough
    )
    assert seen == [1024, 2048]
    assert learnt is shown[1]
    assert [student.name for student in shown] == ["beginner+polish"] * 2


@pytest.mark.parametrize("rate", [3.0, 1e30])
def test_what_does_not_help_is_not_kept(rate):
    """A learning rate that throws the policy away, or to NaN, gives back what it began with."""
    wild = dataclasses.replace(QUICK, steps=2048, critic_steps=1024, learning_rate=rate, clip=1e6)
    result = polished(wild, [])
    assert result.name == "beginner"
    assert np.array_equal(result.parameters[0][0], beginner().parameters[0][0])
    assert len(result.result.seeds) == 100


class Breaks(gym.Wrapper):
    """Raises at its hundredth step."""

    def step(self, action):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 100:
            raise OSError("the cable is out")
        return self.env.step(action)


@pytest.mark.parametrize("environments", [1, 2])
def test_an_environment_that_raises_is_said(environments):
    broken = dataclasses.replace(DRIFT, wrappers=("test_reinforce:Breaks",))
    with pytest.raises(EnvironmentFailure, match=r"the cable is out.* --resume goes on"):
        reinforce(
            beginner(),
            dataclasses.replace(lesson(), env=broken),
            dataclasses.replace(QUICK, environments=environments),
            images(),
            (7,),
        )


def test_only_convolutions_with_discrete_actions():
    assert can_reinforce(beginner(), lesson())
    dense = dataclasses.replace(drift_teacher().arch, convs=())
    assert not can_reinforce(Candidate("dense", dense), lesson())
    teacher = drift_teacher()
    clipped = dataclasses.replace(teacher.spec, normaliser=Normaliser((0.0,), (255.0,), clip=1.0))
    other = NumpyPolicy(clipped, teacher.arch, teacher.parameters)
    assert not can_reinforce(beginner(), dataclasses.replace(lesson(), teacher=other))


def test_games_are_cut_at_lives_where_the_presets_say_so():
    atari = EnvSpec("MsPacmanNoFrameskip-v4", wrappers=("pops.atari:AtariFrames",))
    cut = ("pops.atari:AtariFrames", "pops.atari:EpisodePerLife")
    assert [env.wrappers for env in training_sources(atari, 3)] == [cut] * 3
    assert training_sources(DRIFT, 2) == [DRIFT, DRIFT]


def test_every_second_game_is_of_the_kind_that_is_reported_beside():
    sticky, plain = {"repeat_action_probability": 0.25}, {"repeat_action_probability": 0.0}
    pong = EnvSpec("PongNoFrameskip-v4", sticky, beside=plain)
    assert [env.kwargs for env in training_sources(pong, 4)] == [sticky, plain, sticky, plain]


@pytest.mark.slow
def test_compress_polishes_the_smallest_that_would_not_pass(tmp_path, monkeypatch):
    """Nothing is good enough but the third round's student of the smallest, of four rounds.

    The first would not pass, the second does not hold beside.
    """
    monkeypatch.setattr("pops.select.would_pass", lambda *_: False)
    passes, holds = iter([False, True, True]), iter([False, True])
    monkeypatch.setattr("pops.reinforce_stage.would_pass", lambda *_: next(passes))
    shown: list[Candidate] = []

    def holds_beside(_, student):
        shown.append(student)
        return next(holds)

    monkeypatch.setattr("pops.reinforce_stage.holds_beside", holds_beside)
    chosen: list[Candidate] = []

    def checked(state, candidate, what):
        if what == "polish":
            chosen.append(candidate)
        return check(state, candidate, what)

    monkeypatch.setattr("pops.reinforce_stage.check", checked)
    quick = functools.partial(dataclasses.replace, QUICK, segment=2048, round=2048)
    monkeypatch.setattr("pops.reinforce_stage.ReinforceConfig", lambda n: quick(steps=n))
    config = dataclasses.replace(QUICK_COMPRESSION, polish=PolishConfig(image_steps=8192))
    tracker = Tracker(tmp_path / "run", "quiet", tensorboard=False)
    run = compress(drift_teacher(), DRIFT, tmp_path / "run", config, workers=2, tracker=tracker)
    stages = sorted((tmp_path / "run" / "select" / "reinforce").iterdir())
    steps = [read_json(stage / "facts.json")["environment_steps"] for stage in stages]
    assert steps == [QUICK.critic_steps, 2048, 2048, 2048]
    assert chosen == [shown[1]]
    facts = [read_json(path) for path in sorted((tmp_path / "run/validate").glob("*/facts.json"))]
    assert facts[-1]["name"].endswith("+polish")
    assert facts[-1]["num_parameters"] == min(
        rung["num_parameters"] for rung in run.manifest["ladder"] if rung["mean"] > 3
    )
    with (tmp_path / "run" / "metrics.jsonl").open() as lines:
        records = [json.loads(line) for line in lines]
    assert [r["steps"] for r in records if r["kind"] == "polish"] == list(range(1024, 7168, 1024))


def test_steps_are_not_negative():
    with pytest.raises(UsageError, match=r"--polish\.image-steps -1, expected at least 0"):
        CompressConfig(polish=PolishConfig(image_steps=-1))
