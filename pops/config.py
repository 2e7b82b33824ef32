"""Configurations, one for each stage. The docstring under a field is its help text.

Nothing here imports torch: the command line needs these to print its help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

from pops.errors import UsageError

Preset = Literal["default", "paper"]
Effort = Literal["quick", "standard", "thorough"]

EFFORT_SCALE: dict[str, float] = {"quick": 0.4, "standard": 1.0, "thorough": 3.0}


@dataclass(frozen=True)
class DistillConfig:
    """Policy distillation: the student learns the teacher's labels on visited states."""

    first_states: int = 6000
    """States that the teacher visits before anything learns."""
    rounds: int = 4
    """Rounds of collecting states and fitting them."""
    states: int = 3200
    """States collected in each round."""
    updates: int = 1500
    """Gradient updates after each round."""
    batch_size: int = 256
    """States in one update."""
    learning_rate: float = 3e-3
    """Adam's learning rate at the start; it decays to zero along a cosine."""
    temperature: Optional[float] = None
    """Softmax temperature of the teacher; unset calibrates it (see `calibrate_temperature`)."""
    student_states: bool = True
    """Collect states that the student visits too (DAgger), not the teacher's alone."""
    mixture_decay: float = 0.5
    """Share of teacher's actions while collecting: this to the power of the round."""
    standardise: bool = True
    """Train on standardised inputs; the scaling is folded into the first layer."""
    batch_norm: bool = True
    """Convolutional students learn with batch normalisation, folded into their weights."""
    race_warm_start: bool = True
    """Race weights inherited from the pruned network against fresh ones; keep the better."""


@dataclass(frozen=True)
class PruneConfig:
    """Iterative policy pruning (IPP): gradual magnitude pruning guarded by return."""

    updates: int = 1600
    """Gradient updates of one pruning stage."""
    frequency: int = 20
    """Updates between two steps of the cubic sparsity schedule."""
    target_sparsity: float = 0.99
    """Sparsity at the schedule's end."""
    ranking: Literal["lamp", "layer"] = "lamp"
    """What ranks weights: LAMP over the whole network (Lee et al. 2021), or magnitude by layer."""
    guard_every: int = 200
    """Updates between two evaluations of the return."""
    guard_episodes: int = 16
    """Episodes of one such evaluation."""
    patience: int = 4
    """Evaluations in a row under the bound after which pruning ends."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    states: int = 1600
    """States collected at each evaluation of the return."""


@dataclass(frozen=True)
class SearchConfig:
    """Below convergence: fewer units, fewer layers, fewer inputs."""

    enabled: bool = True
    """Search below the size at which pruning and shrinking converged."""
    candidates: int = 10
    """Architectures that start."""
    rungs: int = 3
    """Rungs of synchronous halving, for dense networks; the budget doubles from one to the next."""
    rounds: int = 2
    """Rounds of distillation on the first rung; of a convolutional network, all of them."""
    episodes: int = 24
    """Screening episodes on the first rung."""
    descend: bool = True
    """Go on down from the smallest that passes, in small steps and with full effort."""
    restarts: int = 3
    """Fresh starts of each network on that way down."""
    fewer_layers: bool = True
    """Try fewer hidden layers of dense networks, down to a linear policy."""
    fewer_inputs: bool = True
    """Try to do without some inputs."""


@dataclass(frozen=True)
class PolishConfig:
    """Improve a tiny student by its return, with CMA-ES (Hansen 2016)."""

    enabled: bool = True
    """Polish candidates by return on screening seeds."""
    max_params: int = 400
    """Larger students are not polished."""
    generations: int = 24
    """Generations of CMA-ES for one candidate at most."""
    steps: int = 300_000
    """Environment steps for one candidate, after which no generation begins."""
    episodes: int = 16
    """Screening episodes for one member of the population."""
    attempts: int = 3
    """Candidates that may be polished."""
    image_steps: int = 0
    """Environment steps of PPO, at most, for a student on images that is not good enough; 0 for
    none."""


@dataclass(frozen=True)
class ScreenConfig:
    """Screening episodes that tell what a student is worth before the gate does."""

    distilled: int = 48
    """Of the student that each iteration ends with."""
    validation: int = 200
    """Of what may become the finalist."""
    confirmation: int = 400
    """Of what passes validation, on other seeds."""


@dataclass(frozen=True)
class GateConfig:
    """The gate, and the seeds it plays."""

    alpha: float = 0.05
    """Error level of the first look; each further look has half of the last one's."""
    looks: int = 4
    """Looks at most; every one is recorded."""


@dataclass(frozen=True)
class CompressConfig:
    """Policy Pruning and Shrinking from a teacher to the smallest student that passes the gate."""

    preset: Preset = "default"
    """`paper` is the method as published; `default` goes further."""
    effort: Effort = "standard"
    """How much training and search: quick, standard or thorough."""
    budget_scale: float = 1.0
    """Multiplies every budget of updates and states."""
    seed: int = 0
    """Everything random derives from it."""
    max_drop: float = 0.05
    """Largest share of (teacher - random) that the mean return may lose."""
    episodes: int = 100
    """Paired episodes of the gate, on seeds that nothing has seen; at least 20."""
    max_params: Optional[int] = None
    """Stop the search once a student this small passes screening; on images, begin it there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where convolutional networks train; auto takes a GPU if there is one."""
    stochastic: bool = False
    """The teacher samples its actions, for policies that play better so than by argmax."""
    iterations: int = 8
    """Iterations of pruning and shrinking at most."""
    convergence: float = 0.25
    """Converged when an iteration changes the number of parameters by less than this share."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    polish: PolishConfig = field(default_factory=PolishConfig)
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        """Refuse what would fail later, or make a gate that means nothing."""
        shares = ("convergence", "prune.target_sparsity", "distill.mixture_decay")
        for name, value in _values(self):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if name == "seed":
                fits, expected = value >= 0, "0 or more"
            elif name == "episodes":
                fits, expected = value >= 20, "at least 20 for the gate to mean something"
            elif name == "max_drop":
                fits, expected = 0 < value < 1, "more than 0 and less than 1"
            elif name == "gate.alpha":
                fits, expected = 0 < value < 0.5, "more than 0 and less than 0.5"
            elif name in shares:
                fits, expected = 0 <= value <= 1, "between 0 and 1"
            elif isinstance(value, int):
                may_be_zero = ("polish.attempts", "polish.max_params", "polish.image_steps")
                least = 0 if name in may_be_zero else 1
                fits, expected = value >= least, f"at least {least}"
            else:
                fits, expected = 0 < value <= 1000, "more than 0 and at most 1000"
            if not fits:
                option = name.replace("_", "-")
                raise UsageError(f"Found --{option} {value}, expected {expected}.")

    def resolved(self, images: bool = False) -> CompressConfig:
        """The configuration with preset, effort and budget scale worked in.

        `images`: the observations are images; what was left at its default is another then.
        """
        config = _for_images(self) if images else self
        config = paper_preset(config) if config.preset == "paper" else config
        return _scaled(config, EFFORT_SCALE[self.effort] * self.budget_scale)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return dataclasses.asdict(self)


def _values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a configuration and of those within it, by its name on the command line."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


IMAGES: dict[str, dict[str, float]] = {
    "distill": {"first_states": 24_000, "updates": 1000, "states": 4800, "learning_rate": 6e-3},
    "prune": {
        "updates": 1000,
        "guard_every": 125,
        "guard_episodes": 6,
        "states": 3200,
        "learning_rate": 2e-4,
    },
    "search": {"candidates": 4, "rounds": 8, "episodes": 16},
    "screen": {"distilled": 16, "validation": 40, "confirmation": 40},
}
"""Budgets for image observations, where a step of the environment and an update cost a hundred
times what they cost elsewhere, and an episode has thousands of steps."""

IMAGE_ITERATIONS = 1
"""Of pruning and shrinking; the search goes on below, where it costs less."""


def _for_images(config: CompressConfig) -> CompressConfig:
    """Image budgets in place of the defaults; what was asked for otherwise stays."""
    changed = {}
    for stage, values in IMAGES.items():
        asked = getattr(config, stage)
        usual = type(asked)()
        left = {k: v for k, v in values.items() if getattr(asked, k) == getattr(usual, k)}
        changed[stage] = dataclasses.replace(asked, **left)
    iterations = config.iterations
    # As published nothing goes on below: the iterations are all there is.
    if config.preset == "default" and iterations == CompressConfig().iterations:
        iterations = IMAGE_ITERATIONS
    return dataclasses.replace(config, iterations=iterations, **changed)


def paper_preset(config: CompressConfig) -> CompressConfig:
    """Livne and Cohen 2020 as published; see docs/method.md for each setting's source."""
    return dataclasses.replace(
        config,
        convergence=0.05,
        distill=dataclasses.replace(
            config.distill,
            rounds=10,
            states=10_000,
            updates=1000,
            batch_size=128,
            learning_rate=1e-3,
            temperature=0.01 if config.distill.temperature is None else config.distill.temperature,
            student_states=False,
            standardise=False,
            batch_norm=False,
            race_warm_start=False,
        ),
        prune=dataclasses.replace(
            config.prune,
            updates=6000,
            frequency=10,
            ranking="layer",
            states=5000,
            learning_rate=1e-4,
        ),
        search=dataclasses.replace(config.search, enabled=False),
        polish=dataclasses.replace(config.polish, enabled=False),
    )


def _scaled(config: CompressConfig, scale: float) -> CompressConfig:
    def times(n: int, least: int = 1) -> int:
        return max(least, round(n * scale))

    return dataclasses.replace(
        config,
        distill=dataclasses.replace(
            config.distill,
            updates=times(config.distill.updates, 20),
            states=times(config.distill.states, 64),
        ),
        prune=dataclasses.replace(
            config.prune,
            updates=times(config.prune.updates, 50),
            states=times(config.prune.states, 64),
        ),
        polish=dataclasses.replace(config.polish, generations=times(config.polish.generations, 2)),
    )
