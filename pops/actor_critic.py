"""An actor-critic of Stable-Baselines3 whose actor is a student."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Callable, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from pops.arch import NetArch
from pops.batch_norm import NormalisedNetwork
from pops.candidate import Candidate
from pops.convolutional import torch_threads
from pops.network import PolicyNetwork
from pops.policy import Parameters
from pops.sharpen import sharpening
from pops.spec import Array, FloatArray, PolicySpec
from pops.train.start import held

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecNormalize

    from pops.reinforce import ReinforceConfig
    from pops.rounds import Segment

CRITIC_UNITS = (128, 64)
LEAST_RATE = 0.1
"""Share of the learning rate that is left at the end."""
SCALE = ("mean", "var", "count")
"""What the running deviation of returns consists of."""


class Body(BaseFeaturesExtractor):
    """The student without its last layer; puts out its last map beside its last hidden units."""

    def __init__(self, space: Any, arch: NetArch, scale: tuple[float, float]) -> None:
        self.map_size = int(np.prod(arch.layers()[len(arch.convs) - 1].output_shape))
        super().__init__(space, self.map_size + arch.layers()[-1].weight[1])
        self.network = NormalisedNetwork(arch)
        self._mean, self._std = scale
        self._held = torch.empty(0)

    def train(self, mode: bool = True) -> Body:
        """Batch normalisation keeps its statistics: what acted and what learns is one policy."""
        return super().train(False)

    def inputs(self, observations: torch.Tensor) -> torch.Tensor:
        """Images as the student's spec preprocesses them, channels first; until the next ones.

        They lie where the last batch lay: new memory for sixty megabytes costs more than the work.
        """
        x = observations
        if tuple(x.shape[1:]) != self.network.arch.input_shape:
            x = x.permute(0, 3, 1, 2)
        if x.shape != self._held.shape:
            self._held = torch.empty(x.shape, memory_format=torch.channels_last)
        return self._held.copy_(x).sub_(self._mean).div_(self._std)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Observations (N, ...) to (N, map + hidden units)."""
        return self.features(self.inputs(observations))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What `inputs` made of observations to (N, map + hidden units)."""
        network, seen = self.network, x
        for index, shape in enumerate(network.arch.layers()[:-1]):
            if index == len(network.arch.convs):
                x = seen = x.flatten(1)
            x = network.activated(
                shape.activation, network.normalised(index, network.layers[index](x))
            )
        if not network.arch.widths:
            x = seen = x.flatten(1)
        return torch.cat([seen, x], 1)


class Heads(nn.Module):
    """The critic reads all that the body puts out, but does not teach it; the actor the units."""

    def __init__(self, map_size: int, units: int) -> None:
        super().__init__()
        first, second = CRITIC_UNITS
        self.latent_dim_pi, self.latent_dim_vf = units, second
        self._map_size = map_size
        self.value_net = nn.Sequential(
            nn.Linear(map_size + units, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the actor's and of the critic's last layer."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        """The student's last hidden units."""
        return features[:, self._map_size :]

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        """The critic's last hidden units."""
        hidden: torch.Tensor = self.value_net(features.detach())
        return hidden


class ActorCritic(ActorCriticCnnPolicy):
    """The policy of one PPO, anchored to the student that it began as."""

    anchor: PolicyNetwork
    anchor_weight: float
    sharpened: float
    """Factor on the logits that it began with."""
    further: float = 1.0
    """Factor on the logits of now, besides."""
    mlp_extractor: Any

    def _build_mlp_extractor(self) -> None:
        body = cast("Body", self.features_extractor)
        self.mlp_extractor = Heads(body.map_size, body.features_dim - body.map_size)

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        logits = self.action_net(latent_pi) * self.further
        return self.action_dist.proba_distribution(action_logits=logits)

    def evaluate_actions(self, obs: Any, actions: torch.Tensor) -> Any:
        """As Stable-Baselines3's; the anchor goes into the entropy, which PPO adds to its loss."""
        body = cast("Body", self.features_extractor)
        images = body.inputs(obs)
        latent_pi, latent_vf = self.mlp_extractor(body.features(images))
        distribution = self._get_action_dist_from_latent(latent_pi)
        log_probabilities = distribution.distribution.logits
        with torch.no_grad():
            before = torch.log_softmax(self.anchor(images) * (self.sharpened * self.further), 1)
        divergence = (before.exp() * (before - log_probabilities)).sum(1)
        entropy = distribution.entropy()
        assert entropy is not None
        anchored = entropy - self.anchor_weight * divergence
        return self.value_net(latent_vf), distribution.log_prob(actions), anchored

    def critic_layers(self) -> list[nn.Parameter]:
        """What the critic alone consists of."""
        return [*self.mlp_extractor.value_net.parameters(), *self.value_net.parameters()]

    def actor_layers(self) -> list[nn.Parameter]:
        """Everything else that learns."""
        critic = {id(parameter) for parameter in self.critic_layers()}
        return [p for p in self.parameters() if id(p) not in critic and p.requires_grad]

    def critic_alone(self) -> AbstractContextManager[None]:
        """While this is open the actor stays as it is."""
        return held(self.actor_layers())

    def parameters_of_actor(self) -> Parameters:
        """Copies of (weight, bias) of each layer, batch normalisation folded in."""
        body = cast("Body", self.features_extractor)
        pairs = [(weight.copy(), bias.copy()) for weight, bias in body.network.folded()]
        last = cast("nn.Linear", self.action_net)
        pairs[-1] = (last.weight.detach().numpy().copy(), last.bias.detach().numpy().copy())
        return pairs


class TwoRates(torch.optim.Adam):
    """Adam whose first group keeps its learning rate; Stable-Baselines3 sets one for all."""

    def __init__(self, critic: Any, actor: Any, critic_rate: float) -> None:
        super().__init__([{"params": critic}, {"params": actor}], lr=critic_rate, eps=1e-5)
        self._critic_rate = critic_rate

    def step(self, closure: Any = None) -> Any:
        """One step."""
        self.param_groups[0]["lr"] = self._critic_rate
        return super().step(closure)


class UntransposedPPO(PPO):
    """PPO on images as they come; Stable-Baselines3 would put their channels first.

    Convolutions want them last, so that each update would turn a batch back: a quarter of its time.
    """

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> Any:
        return env


def new_model(
    env: Any,
    spec: PolicySpec,
    arch: NetArch,
    config: ReinforceConfig,
    seed: int,
) -> PPO:
    """A PPO whose actor has this architecture; see `begin_as`."""
    normaliser = spec.normaliser
    scale = (0.0, 1.0) if normaliser is None else (normaliser.mean[0], normaliser.std[0])
    return UntransposedPPO(
        ActorCritic,
        env,
        policy_kwargs={
            "features_extractor_class": Body,
            "features_extractor_kwargs": {"arch": arch, "scale": scale},
            "net_arch": [],
            "normalize_images": False,
        },
        n_steps=max(1, config.rollout // env.num_envs),
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        learning_rate=config.learning_rate,
        clip_range=config.clip,
        ent_coef=config.entropy,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        device="cpu",
        seed=seed,
    )


def begin_as(
    policy: ActorCritic, candidate: Candidate, config: ReinforceConfig, images: FloatArray
) -> None:
    """Make the actor the candidate, sharpened and anchored; the critic stays as it is."""
    assert candidate.parameters is not None
    body = cast("Body", policy.features_extractor)
    body.network.load(candidate.parameters)
    body.network.settle(torch.from_numpy(images), unchanged=True)
    anchor = PolicyNetwork(candidate.arch)
    anchor.load(candidate.parameters)
    anchor.requires_grad_(False)
    weight, bias = candidate.parameters[-1]
    last = cast("nn.Linear", policy.action_net)
    with torch.no_grad():
        outputs = anchor(torch.from_numpy(images)).numpy()
        policy.sharpened = sharpening(outputs, config.entropy_share)
        last.weight.copy_(torch.from_numpy(weight * np.float32(policy.sharpened)))
        last.bias.copy_(torch.from_numpy(bias * np.float32(policy.sharpened)))
    # Not a part of the policy: it neither learns nor is saved.
    object.__setattr__(policy, "anchor", anchor.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    policy.anchor_weight = config.anchor / config.entropy
    policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    policy.optimizer = TwoRates(
        policy.critic_layers(), policy.actor_layers(), config.critic_learning_rate
    )


def falling_rate(begins_at: float, part: Segment) -> Callable[[float], float]:
    """The policy's learning rate in a segment, by the share of the segment that is left."""

    def rate(left: float) -> float:
        progress = part.progress(round((1 - left) * part.steps))
        return begins_at * max(1 - progress, LEAST_RATE)

    return rate


def learn(
    model: PPO,
    steps: int,
    threads: int,
    watch: Callable[[int, float], None],
    updated: Callable[[int], None],
) -> None:
    """Learn from new games.

    While they are played torch has one thread: a second one has little to do with so few images,
    and between them spins on a core that the games need.

    Args:
        model: actor, critic and games.
        steps: environment steps.
        threads: of torch while the model is updated.
        watch: told after each rollout how many they were, and the mean return of late.
        updated: told how many they were after each time that the actor was changed.
    """

    class Watching(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            torch.set_num_threads(threads)
            returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            if returns:
                watch(self.num_timesteps, float(np.mean(returns)))

        def _on_rollout_start(self) -> None:
            torch.set_num_threads(1)
            if self.num_timesteps:
                updated(self.num_timesteps)

        def _on_training_end(self) -> None:
            updated(self.num_timesteps)

    with torch_threads(threads):
        model.learn(steps, callback=Watching())


def snapshot(model: PPO) -> dict[str, Array]:
    """All that learning goes on from, but for the random state: weights, moments, scale."""
    policy = {f"policy/{key}": value.numpy() for key, value in model.policy.state_dict().items()}
    moments = {
        f"moments/{index}/{key}": value.numpy()
        for index, state in model.policy.optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    scale = cast("VecNormalize", model.get_env()).ret_rms
    returns = {f"returns/{key}": np.asarray(getattr(scale, key)) for key in SCALE}
    return {key: value.copy() for key, value in {**policy, **moments, **returns}.items()}


def restore(model: PPO, arrays: Mapping[str, Any]) -> None:
    """Go on from what `snapshot` saw."""
    policy, moments = {}, defaultdict[int, dict[str, torch.Tensor]](dict)
    scale = cast("VecNormalize", model.get_env()).ret_rms
    for name, value in arrays.items():
        kind, _, key = name.partition("/")
        if kind == "policy":
            policy[key] = torch.from_numpy(np.array(value))
        elif kind == "moments":
            index, _, key = key.partition("/")
            moments[int(index)][key] = torch.from_numpy(np.array(value))
        elif kind == "returns":
            setattr(scale, key, np.array(value)[()])
    model.policy.load_state_dict(policy)
    optimizer = model.policy.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(moments)})
