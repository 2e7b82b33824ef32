"""Runtimes for benches that need more than an exported file: torch, Stable-Baselines3, numpy.

pops_deploy never imports torch; it is handed these as `SUPPLIERS`. Each opens one policy file
(.safetensors) and has the shape of `pops_deploy.runtime.base.Runtime`: a Policy whose single call
can be timed before, inside and after the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from pops.artifact import load_policy, sha256_file
from pops.errors import MissingPackage, PopsError, UsageError
from pops.policy import NumpyPolicy
from pops.spec import Array, DiscreteActions, FloatArray

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy

SUPPLIERS = {
    "sb3": "pops.torch_runtime:open_sb3",
    "torch": "pops.torch_runtime:open_torch",
    "numpy": "pops.torch_runtime:open_numpy",
}
"""For `pops_deploy.bench(..., suppliers=SUPPLIERS)` and `open_runtime`."""

NATURE_CNN = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


class _Opened:
    """What the three share: a policy file and its float32 reference."""

    name = ""
    file = "fp32"

    def __init__(self, path: Path, file: str) -> None:
        if file != "fp32":
            raise UsageError(f"The {self.name} runtime runs the float32 policy, not {file}.")
        self.policy = load_policy(path)[0]
        self.spec = self.policy.spec
        self.bytes, self.sha256 = path.stat().st_size, sha256_file(path)
        self.versions: dict[str, str] = {"numpy": np.__version__}
        self.step: Callable[[Any], Any] = self._step_in_parts
        self._discrete = isinstance(self.spec.actions, DiscreteActions)

    def prepare(self, observation: Any) -> Any:
        """One observation to the network's input."""
        return self.spec.preprocess(np.asarray(observation)[None])

    def run(self, prepared: Any) -> Any:
        """The network alone."""
        return self.policy.forward(prepared)

    def finish(self, raw: Any) -> Any:
        """Outputs to one action for the environment."""
        action = self.spec.decode(raw)[0]
        return int(action) if self._discrete else action

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        return self.policy.outputs(observations)

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        return self.spec.decode(self.outputs(observations))

    def phases(self, observations: list[Any]) -> None:
        """The three methods are timed from outside."""

    def _step_in_parts(self, observation: Any) -> Any:
        return self.finish(self.run(self.prepare(observation)))


class NumpyRuntime(_Opened):
    """What `pops.load(RUN)` returns: numpy alone."""

    name = "numpy"


class TorchRuntime(_Opened):
    """The network as a torch module on one thread."""

    name = "torch"

    def __init__(self, path: Path, file: str) -> None:
        super().__init__(path, file)
        try:
            import torch
        except ImportError as error:
            raise MissingPackage("torch", "train", "The torch runtime") from error
        from pops.network import to_torch

        torch.set_num_threads(1)
        arch = self.policy.arch
        self._torch = torch
        self._module = to_torch(arch, self.policy.parameters).eval()
        self._inputs = None if arch.inputs is None else list(arch.inputs)
        self.versions = {"torch": str(torch.__version__)}

    def prepare(self, observation: Any) -> Any:
        """One observation to a tensor (1, ...)."""
        return self._tensor(np.asarray(observation)[None])

    def run(self, prepared: Any) -> Any:
        """The module, without gradients."""
        with self._torch.inference_mode():
            return self._module(prepared)

    def finish(self, raw: Any) -> Any:
        """Outputs to one action for the environment."""
        return super().finish(raw.numpy())

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        result: FloatArray = self.run(self._tensor(observations)).numpy()
        return result

    def _tensor(self, observations: Array) -> Any:
        x = self.spec.preprocess(observations)
        if self._inputs is not None:
            x = np.ascontiguousarray(x[:, self._inputs])
        return self._torch.from_numpy(x)


class Sb3Runtime(_Opened):
    """Stable-Baselines3's own policy class and `predict`, filled with the policy's weights.

    The class is built anew from the architecture; a teacher's zip is never unpickled. What
    VecNormalize would do to an observation counts as before the network.
    """

    name = "sb3"

    def __init__(self, path: Path, file: str) -> None:
        super().__init__(path, file)
        try:
            import stable_baselines3
            import torch
        except ImportError as error:
            raise MissingPackage("stable-baselines3", "train", "The sb3 runtime") from error
        torch.set_num_threads(1)
        self._torch = torch
        self._predictor = sb3_policy(self.policy)
        self._shape = (-1, *(self._predictor.action_space.shape or ()))
        self.versions = {
            "stable-baselines3": stable_baselines3.__version__,
            "torch": str(torch.__version__),
        }
        normalises = self.spec.normaliser is not None and len(self.policy.arch.input_shape) == 1
        self._normaliser = self.spec.preprocess if normalises else None
        self._start = getattr(self.spec.actions, "start", 0)
        self.step = self._predict

    def prepare(self, observation: Any) -> Any:
        """One observation to the policy's tensor."""
        return self._predictor.obs_to_tensor(self._normalised(observation))[0]

    def run(self, prepared: Any) -> Any:
        """The policy's deterministic prediction."""
        with self._torch.no_grad():
            return self._predictor._predict(prepared, deterministic=True)

    def finish(self, raw: Any) -> Any:
        """One action, as far as `predict` goes on the CPU."""
        return raw.cpu().numpy().reshape(self._shape)[0]

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        rows = [self._predict(observation) for observation in observations]
        dtype = np.int64 if self._discrete else np.float32
        return np.asarray(rows, dtype)

    def _predict(self, observation: Any) -> Any:
        action = self._predictor.predict(self._normalised(observation), deterministic=True)[0]
        return action + self._start if self._start else action

    def _normalised(self, observation: Any) -> Any:
        if self._normaliser is None:
            return observation
        return self._normaliser(np.asarray(observation)[None])[0]


def sb3_policy(policy: NumpyPolicy) -> BasePolicy:
    """Stable-Baselines3's policy class for this architecture, with these weights.

    Q-values become a DQNPolicy, logits and clipped means an ActorCriticPolicy, squashed means a
    TD3Policy.

    Raises:
        PopsError: if Stable-Baselines3 has no policy of this shape.
    """
    import torch
    from torch import nn

    arch, spec = policy.arch, policy.spec
    activations = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU}
    names = set(arch.activations) | {conv.activation for conv in arch.convs}
    convs = tuple((c.channels, c.kernel, c.stride) for c in arch.convs)
    if (
        len(names) > 1
        or not names <= set(activations)
        or arch.output_activation != "identity"
        or arch.inputs is not None
        or spec.output_clip is not None
        or (convs and (convs != NATURE_CNN or names != {"relu"} or not arch.widths))
    ):
        raise PopsError(f"Stable-Baselines3 has no policy class for {arch}.")
    hidden = list(arch.widths[1:] if convs else arch.widths)
    keywords: dict[str, Any] = {"activation_fn": activations[arch.activation]}
    if convs:
        from stable_baselines3.common.torch_layers import NatureCNN

        keywords["features_extractor_class"] = NatureCNN
        keywords["features_extractor_kwargs"] = {"features_dim": arch.widths[0]}
    built, layers = _build(policy, hidden, keywords)
    weighted = [
        m for part in layers for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))
    ]
    with torch.no_grad():
        for module, (weight, bias) in zip(weighted, policy.parameters):
            module.weight.copy_(torch.from_numpy(weight.copy()))
            assert module.bias is not None
            module.bias.copy_(torch.from_numpy(bias.copy()))
    if len(weighted) != len(policy.parameters):
        raise PopsError(f"Stable-Baselines3 has no policy class for {arch}.")
    built.set_training_mode(False)
    result: BasePolicy = built
    return result


def _build(
    policy: NumpyPolicy, hidden: list[int], keywords: dict[str, Any]
) -> tuple[Any, list[Any]]:
    """The policy and, in forward order, the modules that hold the layers."""
    from gymnasium import spaces
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.td3.policies import TD3Policy

    spec = policy.spec
    observation_space: spaces.Space[Any]
    if spec.one_hot:
        observation_space = spaces.Discrete(spec.one_hot)
    elif policy.arch.convs:
        # Channels first, whatever the environment has: `predict` moves them.
        observation_space = spaces.Box(0, 255, spec.input_shape, np.uint8)
    else:
        observation_space = spaces.Box(-np.inf, np.inf, spec.observation_shape, np.float32)

    def rate(_: float) -> float:
        return 1e-3

    if isinstance(spec.actions, DiscreteActions):
        discrete = spaces.Discrete(spec.actions.n)
        actions: spaces.Space[Any] = discrete
        if spec.output == "q_values":
            q = DQNPolicy(observation_space, discrete, rate, net_arch=hidden, **keywords)
            return q, [q.q_net.features_extractor, q.q_net.q_net]
    else:
        low, high = (np.asarray(b, np.float32) for b in (spec.actions.low, spec.actions.high))
        shape = spec.actions.shape
        actions = spaces.Box(low.reshape(shape), high.reshape(shape), dtype=np.float32)
        if spec.actions.squash == "tanh":
            td3 = TD3Policy(observation_space, actions, rate, net_arch=hidden or [], **keywords)
            return td3, [td3.actor.features_extractor, td3.actor.mu]
    net_arch = {"pi": hidden, "vf": hidden}
    ac = ActorCriticPolicy(observation_space, actions, rate, net_arch=net_arch, **keywords)
    return ac, [ac.features_extractor, ac.mlp_extractor.policy_net, ac.action_net]


def open_torch(path: Path, file: str) -> TorchRuntime:
    """A policy file in torch."""
    return TorchRuntime(path, file)


def open_sb3(path: Path, file: str) -> Sb3Runtime:
    """A policy file in Stable-Baselines3's `predict`."""
    return Sb3Runtime(path, file)


def open_numpy(path: Path, file: str) -> NumpyRuntime:
    """A policy file in numpy."""
    return NumpyRuntime(path, file)
