"""Stable-Baselines3 and sb3-contrib zips, read without importing or unpickling what they name."""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pops.errors import TeacherError
from pops.teacher.archive import MAX_DATA_BYTES, MAX_FILE_BYTES, load_tensors, read_member
from pops.teacher.contents import ACTIVATION_CLASSES, Contents, check_chain, check_finite
from pops.teacher.sb3_actor import Actor, read_actor
from pops.teacher.spaces import Space, refuse_unsupported, space_from_strings

_RELU_ALGORITHMS = ("DQN", "QR-DQN", "SAC", "TD3", "DDPG", "TQC")
_EXTRACTORS = ("NatureCNN", "FlattenExtractor")
_DOTTED = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Kwargs:
    """The policy's keyword arguments that change its forward pass, as strings tell them."""

    activation: str | None = None
    """Class name, for example "ReLU"."""
    features_extractor: str | None = None
    normalize_images: bool = True
    squash_output: bool = False
    clip_mean: float = 2.0
    source: str = "policy_kwargs"


def read_sb3_zip(path: Path, archive: zipfile.ZipFile, activation: str | None) -> Contents:
    """Read a zip that `model.save()` wrote.

    Raises:
        TeacherError: if it is damaged or holds a policy that pops does not compress.
        EnvironmentFailure: if it was trained on spaces that pops does not support.
    """
    data = _read_data(path, archive)
    algorithm = _algorithm(path, data)
    observation = space_from_strings(data.get("observation_space"))
    action = space_from_strings(data.get("action_space"))
    refuse_unsupported(str(path), observation, action)
    _refuse_start(path, observation, action)
    kwargs = _policy_kwargs(path, data)
    name, source = choose_activation(path, activation, kwargs, algorithm)
    raw = read_member(archive, "policy.pth", str(path), MAX_FILE_BYTES)
    weights = load_tensors(raw, f"{path} (policy.pth)")
    n_actions = action.n if action is not None and action.kind == "Discrete" else None
    actor = read_actor(path, weights, name, n_actions)
    check_chain(path, actor.layers)
    check_finite(path, actor.layers)
    used = [layer.activation for layer in actor.layers[:-1]]
    if used and name not in used:
        name, source = used[0], "NatureCNN"
    return Contents(
        path=path,
        kind="Stable-Baselines3 zip",
        layers=actor.layers,
        output=actor.output,
        algorithm=algorithm or f"unknown ({actor.family})",
        library_version=_version(archive, path),
        observation=observation,
        action=action,
        squash="tanh" if kwargs.squash_output else actor.squash,
        output_clip=kwargs.clip_mean if actor.has_clip_mean and kwargs.clip_mean > 0 else None,
        scale_images=kwargs.normalize_images,
        activation=name,
        activation_source=source,
        log_std=actor.log_std,
        notes=_notes(actor),
        extra={"num_timesteps": data["num_timesteps"]}
        if isinstance(data.get("num_timesteps"), int)
        else {},
    )


def choose_activation(
    path: Path, given: str | None, kwargs: Kwargs, algorithm: str | None
) -> tuple[str, str]:
    """The activation of the hidden layers, and where it is known from.

    Raises:
        TeacherError: if the file names one that is not supported.
    """
    if given is not None:
        return given, "given"
    if kwargs.activation is not None:
        if kwargs.activation not in ACTIVATION_CLASSES:
            raise TeacherError(
                f"{path} uses the activation {kwargs.activation!r}, which is not supported; "
                f"expected one of {', '.join(ACTIVATION_CLASSES)}. Train with one of those."
            )
        return ACTIVATION_CLASSES[kwargs.activation], kwargs.source
    default = "relu" if algorithm in _RELU_ALGORITHMS else "tanh"
    return default, f"default of {algorithm or 'actor-critic policies'}"


def _read_data(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    raw = read_member(archive, "data", str(path), MAX_DATA_BYTES)
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise TeacherError(
            f"{path}: its member 'data' is not JSON ({error}). The file is damaged, or not from "
            "Stable-Baselines3 (version 3); save the model again."
        ) from error
    if not isinstance(data, dict):
        raise TeacherError(
            f"{path}: its member 'data' is a {type(data).__name__}, expected a JSON object as "
            "Stable-Baselines3's model.save() writes."
        )
    return data


def _algorithm(path: Path, data: dict[str, Any]) -> str | None:
    """The algorithm, from the policy's module and the settings that only one of them has."""
    policy_class = data.get("policy_class")
    module = str(policy_class.get("__module__", "")) if isinstance(policy_class, dict) else ""
    if "recurrent" in module:
        raise TeacherError(
            f"{path} holds a recurrent policy (RecurrentPPO); expected a feed-forward one. Train "
            "a feed-forward policy, with stacked frames if it needs memory."
        )
    for word, name in (("maskable", "MaskablePPO"), (".ars", "ARS"), (".crossq", "CrossQ")):
        if word in module:
            raise TeacherError(
                f"{path} holds a policy of {name}, which is not supported; expected PPO, A2C, "
                "TRPO, DQN, QR-DQN, SAC, TD3, DDPG or TQC."
            )
    if module and not module.startswith(("stable_baselines3.", "sb3_contrib.")):
        raise TeacherError(
            f"{path} holds a policy of the custom class in {module!r}, whose forward pass cannot "
            "be known from its weights; expected one of Stable-Baselines3's own. Export the policy "
            "to ONNX and give that file instead."
        )
    for word, name in ((".qrdqn", "QR-DQN"), (".tqc", "TQC"), (".sac", "SAC"), (".dqn", "DQN")):
        if word in module:
            return name
    if ".td3" in module or ".ddpg" in module:
        ddpg = data.get("policy_delay") == 1 and not data.get("target_noise_clip")
        return "DDPG" if ddpg or ".ddpg" in module else "TD3"
    for key, name in (
        ("cg_max_steps", "TRPO"),
        ("clip_range", "PPO"),
        ("top_quantiles_to_drop_per_net", "TQC"),
        ("policy_delay", "TD3"),
        ("target_entropy", "SAC"),
        ("exploration_rate", "DQN"),
        ("gae_lambda", "A2C"),
    ):
        if key in data:
            return name
    return None


def _policy_kwargs(path: Path, data: dict[str, Any]) -> Kwargs:
    raw = data.get("policy_kwargs")
    if not isinstance(raw, dict):
        return Kwargs()
    strings = {key: value for key, value in raw.items() if not key.startswith(":")}
    source = "policy_kwargs"
    activation = _class_name(strings.get("activation_fn"))
    if not strings and ":serialized:" in raw:
        activation, source = _activation_in_pickle(raw[":serialized:"]), "names in policy_kwargs"
    extractor = _class_name(strings.get("features_extractor_class"))
    if extractor is not None and extractor not in _EXTRACTORS:
        raise TeacherError(
            f"{path} uses the custom features extractor {extractor!r}, whose forward pass cannot "
            f"be known from its weights; expected {' or '.join(_EXTRACTORS)}. Export the policy to "
            "ONNX and give that file instead."
        )
    try:
        clip_mean = float(str(strings.get("clip_mean", 2.0)))
    except ValueError:
        clip_mean = 2.0
    return Kwargs(
        activation=activation,
        features_extractor=extractor,
        normalize_images=str(strings.get("normalize_images", True)) != "False",
        squash_output=str(strings.get("squash_output", False)) == "True"
        and (data.get("use_sde") is True or str(strings.get("use_sde")) == "True"),
        clip_mean=clip_mean,
        source=source,
    )


def _class_name(value: Any) -> str | None:
    """`"<class 'torch.nn.modules.activation.ReLU'>"` to `"ReLU"`."""
    if value is None or str(value) == "None":
        return None
    found = re.search(r"<class '([\w.<>]+)'>", str(value))
    return str(found.group(1)).rsplit(".", 1)[-1] if found else str(value)[:80]


def _activation_in_pickle(text: Any) -> str | None:
    """The activation that a pickle names, from its opcodes; the pickle is not executed."""
    try:
        pickled = base64.b64decode(str(text), validate=True)
        words = [str(arg) for opcode, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)]
    except (binascii.Error, ValueError, IndexError):
        return None
    names: list[str] = [word for text in words for word in _DOTTED.findall(text)]
    for index, name in enumerate(names[:-1]):
        if name == "torch.nn.modules.activation":
            return names[index + 1]
    return None


def _version(archive: zipfile.ZipFile, path: Path) -> str | None:
    if "_stable_baselines3_version" not in archive.namelist():
        return None
    raw = read_member(archive, "_stable_baselines3_version", str(path), 1 << 12)
    text = raw.decode("utf-8", "replace").strip()
    return text if re.fullmatch(r"[\w.+-]{1,40}", text) else None


def _refuse_start(path: Path, observation: Space | None, action: Space | None) -> None:
    for name, space in (("observations", observation), ("actions", action)):
        if space is not None and space.kind == "Discrete" and space.start:
            raise TeacherError(
                f"{path} has {space} {name}, which Stable-Baselines3 does not support either; "
                "expected them to start at 0. Shift them with a wrapper."
            )


def _notes(actor: Actor) -> tuple[str, ...]:
    if actor.state_dependent_std:
        return ("the exploration noise depends on the state; only the mean action is compressed",)
    return ()
