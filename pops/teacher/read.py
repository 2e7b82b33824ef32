"""read_contents(): which kind of teacher a file is, from its first bytes, and what it holds."""

from __future__ import annotations

from pathlib import Path

from pops.artifact import load_policy
from pops.errors import TeacherError, UsageError
from pops.teacher.archive import load_tensors, open_zip, read_file
from pops.teacher.contents import Contents, Layer
from pops.teacher.sb3 import read_sb3_zip

EXPECTED = (
    "a Stable-Baselines3 or sb3-contrib zip, a safetensors policy of pops, a torch state dict "
    "(.pt, .pth, .cleanrl_model), an ONNX file, or a folder that pops wrote"
)


def teacher_file(path: Path) -> Path:
    """The policy's file: `path` itself, or the one in a folder that pops wrote.

    Raises:
        TeacherError: if nothing is there.
    """
    if path.is_dir():
        is_run = (path / "manifest.json").is_file()
        names = ("student.safetensors",) if is_run else ("teacher.safetensors",)
        for name in names:
            if (path / name).is_file():
                return path / name
        zips = sorted(path.glob("*.zip"))
        hint = f" It holds {zips[0].name}: give {zips[0]}." if zips else ""
        raise TeacherError(
            f"{path} is a folder without {' or '.join(names)}; expected {EXPECTED}.{hint}"
        )
    if not path.is_file():
        raise TeacherError(f"{path} does not exist; expected {EXPECTED}. Check the path.")
    return path


def read_contents(path: Path, activation: str | None = None) -> Contents:
    """Read a teacher's file. Nothing in it is run.

    Raises:
        TeacherError: if it is damaged, of another kind, or not supported.
        ArtifactError: if it is a damaged safetensors file.
    """
    raw = read_file(path)
    if raw[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _read_zip(path, raw, activation)
    header = int.from_bytes(raw[:8], "little")
    if path.suffix.lower() == ".safetensors" or (raw[8:10] == b'{"' and header < len(raw)):
        return _read_safetensors(path, activation)
    if raw[:1] == b"\x80":
        if b"VecNormalize" in raw[:200]:
            raise TeacherError(
                f"{path} holds VecNormalize statistics and no policy; expected {EXPECTED}. Give "
                "the policy's file, and this one with --vecnormalize."
            )
        return _read_torch(path, raw, activation)
    if raw[:1] == b"\x08" or path.suffix.lower() == ".onnx":
        from pops.teacher.onnx_chain import read_onnx

        return read_onnx(path, raw, activation)
    jax = " CleanRL's JAX models are not supported." if path.suffix == ".cleanrl_model" else ""
    raise TeacherError(
        f"{path} is none of the kinds that pops reads (it starts with {raw[:8]!r}); expected "
        f"{EXPECTED}.{jax}"
    )


def _read_zip(path: Path, raw: bytes, activation: str | None) -> Contents:
    archive = open_zip(raw, str(path))
    names = set(archive.namelist())
    if {"data", "policy.pth"} <= names:
        return read_sb3_zip(path, archive, activation)
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return _read_torch(path, raw, activation)
    if "parameter_list" in names or {"data", "parameters"} <= names:
        raise TeacherError(
            f"{path} was saved by Stable Baselines 2 (TensorFlow), which is not supported; "
            "expected a zip of Stable-Baselines3. Export its weights to ONNX instead."
        )
    shown = ", ".join(sorted(names)[:6]) or "nothing"
    raise TeacherError(
        f"{path} is a zip that holds {shown}; expected 'data' and 'policy.pth', as "
        "Stable-Baselines3's model.save() writes. If it is a zip of teachers, unpack it first."
    )


def _read_torch(path: Path, raw: bytes, activation: str | None) -> Contents:
    from pops.teacher.state_dict import read_state_dict

    return read_state_dict(path, load_tensors(raw, str(path)), activation)


def _read_safetensors(path: Path, activation: str | None) -> Contents:
    if activation is not None:
        raise UsageError(
            f"{path} tells its own activations, so --activation has nothing to say; leave it away."
        )
    policy, extra = load_policy(path)
    names = [f"layer {index}" for index in range(len(policy.parameters))]
    layers = tuple(
        Layer(name, weight, bias, layer.activation)
        for name, (weight, bias), layer in zip(names, policy.parameters, policy.arch.layers())
    )
    log_std = extra.get("log_std")
    return Contents(
        path=path,
        kind="pops policy",
        layers=layers,
        output=policy.spec.output,
        algorithm=_text(extra.get("algorithm")),
        library_version=_text(extra.get("library_version")),
        activation=policy.arch.activation,
        activation_source="the file's architecture",
        log_std=tuple(float(v) for v in log_std) if isinstance(log_std, list) else None,
        policy=policy,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
