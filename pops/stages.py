"""The stages of a compression, each finished on disk before the next begins."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pops.arch import NetArch
from pops.candidate import Candidate, can_inherit, inherit, teach
from pops.config import CompressConfig
from pops.distill import Lesson, calibrate_temperature, folded_copy, training_device
from pops.envs import EnvSource
from pops.errors import PopsError
from pops.evaluate import RANDOM_EPISODES, EvalResult, evaluate, evaluate_random, join
from pops.gate import check_teacher, margin, too_few_episodes
from pops.journal import Journal, StageResult
from pops.memory import check_room, states_of_an_iteration
from pops.policy import NumpyPolicy, Parameters
from pops.precision import times_more, with_more_episodes
from pops.prune import CurvePoint, ReturnGuard, iterative_policy_pruning, redundancy
from pops.record import candidate_from, candidate_to, result_from, result_to, scalars
from pops.replay import ReplayBuffer
from pops.rollout import Sampler, collect_labelled, evaluate_sampling
from pops.seeds import random_seeds, screening_seeds, training_block
from pops.shrink import shrink
from pops.students import Origin
from pops.tracking import Tracker
from pops.validate import VALIDATION_BLOCK
from pops.weights import Scaling
from pops.workers import Workers

DISTIL_BLOCK = 2


@dataclass
class State:
    """What one compression knows so far. Stages read it and move it on."""

    journal: Journal
    tracker: Tracker
    workers: Workers
    config: CompressConfig
    origin: Origin
    env: EnvSource
    teacher_result: EvalResult = field(init=False)
    """The teacher on the validation block of the screening seeds."""
    random_result: EvalResult = field(init=False)
    guard: ReturnGuard = field(init=False)
    lesson: Lesson = field(init=False)
    buffer: ReplayBuffer = field(init=False)
    arch: NetArch = field(init=False)
    """The latest student that met the objective."""
    parameters: Parameters = field(init=False)
    first_parameters: Parameters = field(init=False)
    iterations: list[dict[str, Any]] = field(default_factory=list)
    ladder: list[Candidate] = field(default_factory=list)
    """Every size that was tried, with its screening return."""
    played: dict[str, int] = field(default_factory=dict)
    """Validations, confirmations and the like so far, which number their stages."""
    polish_helps: bool = True
    """Until a candidate comes back from polish as it was."""
    initial: NetArch = field(init=False)

    @property
    def num_parameters(self) -> int:
        """Parameters of the latest student."""
        return self.arch.num_parameters

    @property
    def episode_steps(self) -> int:
        """How long an episode of the teacher's usually is."""
        return int(self.teacher_result.lengths.mean())

    def within_budget(self) -> bool:
        """Whether `--max-params` is met."""
        budget = self.config.max_params
        return budget is not None and self.num_parameters <= budget

    def sampler(self) -> Sampler | None:
        """How a stochastic teacher acts; None for deterministic actions."""
        return self.origin.sampler if self.config.stochastic else None

    def play_teacher(self, seeds: range) -> EvalResult:
        """The teacher's episodes, sampled or deterministic as configured."""
        sampler = self.sampler()
        if sampler is None:
            return evaluate(self.origin.behaviour, self.env, seeds, self.workers)
        return evaluate_sampling(self.origin.behaviour, sampler, self.env, seeds, self.workers)


def measure_teacher(state: State) -> None:
    """Returns of teacher and random policy; the bounds that guard pruning follow from them.

    Raises:
        PopsError: if the teacher is not clearly better than random.
    """
    seed = state.config.seed
    state.tracker.begin("load")

    def make() -> StageResult:
        teacher, random = _reference_returns(state)
        other = None
        if state.origin.sampler is not None and not state.config.stochastic:
            episodes = min(50, max(1, state.config.screen.validation // 4))
            seeds = tuple(screening_seeds(seed, episodes, VALIDATION_BLOCK))
            other = evaluate_sampling(
                state.origin.behaviour, state.origin.sampler, state.env, seeds, state.workers
            ).mean
        return StageResult(
            {"teacher": result_to(teacher), "random": result_to(random), "sampled_mean": other}
        )

    facts = state.journal.stage("start/returns", make).facts
    teacher, random = result_from(facts["teacher"]), result_from(facts["random"])
    sampled = facts["sampled_mean"]
    allowed = margin(teacher, random, state.config.max_drop)
    times = len(teacher.seeds) // state.config.screen.validation
    state.config = with_more_episodes(state.config, times)
    state.teacher_result, state.random_result = teacher, random
    state.guard = ReturnGuard(
        lower_bound=random.mean + 0.5 * (teacher.mean - random.mean),
        objective=teacher.mean - allowed,
        seeds=tuple(screening_seeds(seed, state.config.prune.guard_episodes)),
    )
    state.tracker.say(
        f"teacher {state.origin.arch} ({state.origin.arch.num_parameters:,} parameters) returns "
        f"{teacher.mean:.2f} ± {teacher.std:.2f}, random actions {random.mean:.2f}; "
        f"no worse means within {allowed:.2f}"
    )
    if doubt := too_few_episodes(teacher, allowed, state.config.gate.alpha, state.config.episodes):
        state.tracker.say(doubt)
    error = teacher.std / math.sqrt(len(teacher.seeds))
    if sampled is not None and sampled > teacher.mean + max(allowed, 3 * error):
        state.tracker.say(
            f"the teacher plays better when it samples its actions ({sampled:.2f}) than by its "
            "best action; consider --stochastic"
        )


def _reference_returns(state: State) -> tuple[EvalResult, EvalResult]:
    """The teacher on as many validation episodes as its returns ask for, and random actions."""
    seed, usual = state.config.seed, state.config.screen.validation
    teacher = state.play_teacher(screening_seeds(seed, usual, VALIDATION_BLOCK))
    random = evaluate_random(state.env, random_seeds(seed, RANDOM_EPISODES), state.workers)
    check_teacher(teacher, random)
    times = times_more(teacher.std, margin(teacher, random, state.config.max_drop), usual)
    if times > 1:
        more = screening_seeds(seed, times * usual, VALIDATION_BLOCK)[usual:]
        teacher = join([teacher, state.play_teacher(more)])
    return teacher, random


def visit_stage(state: State) -> None:
    """States that the teacher visits, its labels for them, and what follows from those."""
    state.tracker.begin("rollout")
    config, spec = state.config, state.origin.spec
    state.buffer = ReplayBuffer(spec)
    visited = max(config.distill.first_states, config.distill.states)
    check_room(visited + states_of_an_iteration(config), spec, state.journal.root)

    def make() -> StageResult:
        observations, labels = collect_labelled(
            state.origin.behaviour,
            None,
            state.env,
            teacher_share=1.0,
            states=visited,
            first_seed=training_block(config.seed, "visit"),
            workers=state.workers,
            sampler=state.sampler(),
            episode_steps=state.episode_steps,
        )
        buffer = ReplayBuffer(spec)
        buffer.add(observations, labels)
        inputs, labels = buffer.arrays()
        return StageResult(arrays={"inputs": inputs, "labels": labels})

    arrays = state.journal.stage("start/states", make).arrays
    inputs, labels = arrays["inputs"], np.asarray(arrays["labels"])
    _remember(state, arrays)
    temperature = config.distill.temperature or calibrate_temperature(spec, labels)
    dense = len(spec.input_shape) == 1
    scaling = Scaling.of(np.asarray(inputs)) if dense and config.distill.standardise else None
    state.lesson = Lesson(
        state.origin.behaviour,
        state.env,
        temperature,
        config.distill,
        config.seed,
        state.sampler(),
        scaling,
        training_device(config.device, spec),
        state.episode_steps,
    )
    state.arch = state.initial = state.origin.arch
    if state.origin.policy is not None:
        state.parameters = folded_copy(state.origin.policy, temperature)
    else:
        _first_student(state)
    state.first_parameters = state.parameters


def distil_seeds(state: State) -> range:
    """Screening episodes of students fresh from distillation."""
    return screening_seeds(state.config.seed, state.config.screen.distilled, DISTIL_BLOCK)


def _first_student(state: State) -> None:
    """A network that cannot be read cannot be copied: the first student is taught instead."""

    def make() -> StageResult:
        inputs, labels = state.buffer.arrays()
        fresh = Candidate(str(state.arch), state.arch)
        seeds = tuple(distil_seeds(state))
        rounds = 2 * state.config.distill.rounds
        return candidate_to(
            teach(fresh, inputs, labels, state.lesson, rounds, seeds, (0, 0, 0)), state.lesson
        )

    result = state.journal.stage("start/student", make)
    candidate = candidate_from(result, "candidate")
    if candidate.parameters is None or candidate.mean < state.guard.lower_bound:
        raise PopsError(
            f"A {state.arch} student could not be taught to play like the given module (mean "
            f"return {candidate.mean:.2f}); expected at least {state.guard.lower_bound:.2f}."
        )
    state.parameters = candidate.parameters
    _remember(state, result.arrays)


def _remember(state: State, arrays: Any) -> None:
    """Keep states that a stage visited: all data is kept."""
    if "inputs" in arrays and len(arrays["labels"]):
        state.buffer.extend(arrays["inputs"], arrays["labels"])


def prune_stage(state: State, iteration: int) -> NumpyPolicy:
    """Iterative policy pruning of the latest student; its sparse network."""
    check_room(states_of_an_iteration(state.config), state.origin.spec, state.journal.root)
    state.tracker.begin("prune", iteration, total=float(state.config.prune.updates))

    def watch(point: CurvePoint) -> None:
        state.tracker.advance(state.config.prune.guard_every)
        state.tracker.record(
            "evaluation",
            **dataclasses.asdict(point),
            episodes=len(state.guard.seeds),
            num_parameters=state.num_parameters,
        )
        state.tracker.show(
            iteration=iteration,
            stage="prune",
            sparsity=point.sparsity,
            mean=point.mean,
            parameters=state.num_parameters,
        )

    def make() -> StageResult:
        buffer = state.buffer.copy()
        before = len(buffer)
        pruned = iterative_policy_pruning(
            state.arch,
            state.parameters,
            buffer,
            state.lesson,
            state.guard,
            state.config.prune,
            state.workers,
            (1, iteration),
            watch,
        )
        inputs, labels = buffer.arrays()
        facts = {
            "nonzeros_per_layer": list(pruned.nonzeros_per_layer),
            "sparsity": pruned.sparsity,
            "curve": [dataclasses.asdict(point) for point in pruned.curve],
            "updates": pruned.updates,
        }
        policy = NumpyPolicy(state.lesson.spec, state.arch, pruned.parameters)
        return StageResult(
            facts, {"pruned": policy}, {"inputs": inputs[before:], "labels": labels[before:]}
        )

    result = state.journal.stage(f"iterations/{iteration}/prune", make)
    _remember(state, result.arrays)
    state.iterations.append(
        {
            "index": iteration,
            "pruned_net_arch": state.arch.to_json(),
            "seconds": result.facts["seconds"],
            "sparsity": result.facts["sparsity"],
            "nonzeros_per_layer": result.facts["nonzeros_per_layer"],
            "redundancy_per_layer": list(
                redundancy(state.initial, tuple(result.facts["nonzeros_per_layer"]))
            ),
            "curve": result.facts["curve"],
        }
    )
    return result.policies["pruned"]


def shrink_stage(state: State, iteration: int, pruned: NumpyPolicy) -> NetArch:
    """The smaller dense architecture that the non-zeros ask for."""
    entry = state.iterations[-1]
    smaller = shrink(state.initial, state.arch, entry["nonzeros_per_layer"])
    state.tracker.say(
        f"iteration {iteration}: {entry['sparsity']:.1%} of {state.arch} is redundant "
        f"-> {smaller}, {smaller.num_parameters:,} parameters"
    )
    entry.update(
        net_arch=smaller.to_json(),
        num_parameters=smaller.num_parameters,
        num_weights=smaller.num_weights,
    )
    if smaller == state.arch:
        entry.update(mean=entry["curve"][-1]["mean"], std=entry["curve"][-1]["std"], episodes=0)
    return smaller


def distil_stage(state: State, iteration: int, pruned: NumpyPolicy, smaller: NetArch) -> bool:
    """Teach the smaller network; whether it met the objective and is the latest student now."""
    state.tracker.begin("distil", iteration)

    def make() -> StageResult:
        entrants = [Candidate("fresh", smaller)]
        if state.config.distill.race_warm_start and can_inherit(smaller, pruned.arch):
            weights = inherit(smaller, pruned.arch, pruned.parameters)
            entrants.append(Candidate("inherited", smaller, weights))
        inputs, labels = state.buffer.arrays()
        seeds = tuple(distil_seeds(state))
        tasks = [
            (
                entrant,
                inputs,
                labels,
                state.lesson,
                state.config.distill.rounds,
                seeds,
                (2, iteration, index),
            )
            for index, entrant in enumerate(entrants)
        ]
        taught = state.workers.map(teach, tasks)
        winner = max(taught, key=lambda c: (c.mean, -c.loss))
        return candidate_to(winner, state.lesson, others=taught)

    result = state.journal.stage(f"iterations/{iteration}/distil", make)
    winner = dataclasses.replace(candidate_from(result, "candidate"), name=f"iteration {iteration}")
    _remember(state, result.arrays)
    assert winner.result is not None
    assert winner.parameters is not None
    entry = state.iterations[-1]
    entry.update(
        mean=winner.result.mean,
        std=winner.result.std,
        episodes=len(winner.result.seeds),
        start=result.facts["name"],
        seconds=round(entry["seconds"] + result.facts["seconds"], 3),
    )
    state.ladder.append(winner)
    state.tracker.record("candidate", **scalars(winner), kept=True)
    state.tracker.say(
        f"iteration {iteration}: {smaller} distilled ({result.facts['name']} weights) returns "
        f"{winner.mean:.2f} on {len(winner.result.seeds)} screening episodes"
    )
    if winner.mean < state.guard.objective:
        return False
    state.arch, state.parameters = smaller, winner.parameters
    return True
