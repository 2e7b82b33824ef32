"""Write the files of an artifact, and say for each how to call it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable

from pops.artifact import sha256_file, write_bytes
from pops.errors import UsageError
from pops.policy import NumpyPolicy
from pops.spec import Array
from pops.workers import Workers
from pops_export import onnx_file, tflite_file, tflite_surgery
from pops_export.chatter import to_log
from pops_export.config import ExportConfig
from pops_export.stage import Network, for_integers, plain

TFLITE_RECIPES = {
    "static_wi8_ai8": ("tflite_int8", "policy.int8.tflite"),
    "static_wi8_ai16": ("tflite_int16", "policy.int16.tflite"),
    "dynamic_wi8_afp32": ("tflite_dynamic", "policy.dynamic.tflite"),
}
ORDER = ("onnx_fp32", "tflite_fp32", "onnx_int8", *(key for key, _ in TFLITE_RECIPES.values()))


@dataclass
class Assembly:
    """An artifact while it is being written.

    `core` is the int8 .tflite, float32 at its ends, that C is generated from,
    whatever formats and ends were asked for.
    """

    folder: Path
    config: ExportConfig
    policy: NumpyPolicy
    states: Array
    scratch: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    core: Path | None = None
    integer_policy: NumpyPolicy | None = None
    """The policy that the quantised files hold, where it is not the student itself."""

    @property
    def log(self) -> Path:
        """Where converters write."""
        return self.folder / "export.log"

    @property
    def quantised(self) -> NumpyPolicy:
        """The policy that the quantised files hold."""
        return self.policy if self.integer_policy is None else self.integer_policy

    def integers(self) -> Network:
        """The network that the quantised files are written from."""
        from pops_export.bias_correction import bias_corrected

        return bias_corrected(for_integers(self.quantised, self.states), self.states)

    def add(self, key: str, name: str, recipe: str, io: dict[str, Any], **more: Any) -> None:
        """Record a file that lies in the folder."""
        path = self.folder / name
        self.files[key] = {
            "path": name,
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
            "recipe": recipe,
            "io": io,
            **more,
        }


def check_request(config: ExportConfig, policy: NumpyPolicy) -> None:
    """Refuse, before anything is written, what a format cannot hold or a package is missing for.

    Raises:
        UsageError: if nothing would be written, or an activation has no form in a format.
        MissingPackage: if an optional package is not installed; names the extra.
    """
    formats, recipes = set(config.formats), set(config.recipes)
    if "onnx" in formats:
        onnx_file.require_onnx()
    if "tflite" in formats or ("static_wi8_ai8" in recipes and formats & {"c", "arduino"}):
        tflite_file.require_tflite()
    if formats & {"c", "arduino"}:
        from pops_export.c_files import find_compiler

        find_compiler()
        if policy.spec.one_hot:
            raise UsageError(
                "C is not written for discrete observations; expected a box of numbers or an "
                "image. Use --format onnx,tflite."
            )
    common = {"fp32", "static_wi8_ai8"}
    if not recipes & common and "tflite" not in formats:
        raise UsageError(
            f"--recipe {config.recipe} exists for TFLite only, and --format {config.format} does "
            "not ask for it. Add tflite to --format, or choose fp32 or static_wi8_ai8."
        )
    for recipe in recipes:
        if formats & {"tflite", "c", "arduino"}:
            tflite_file.check_activations(plain(policy), recipe)
    if formats & {"c", "arduino"} and recipes & common:
        tflite_file.check_activations(plain(policy), "static_wi8_ai8")


def write_files(assembly: Assembly, workers: Workers, floats: bool = True) -> None:
    """Every ONNX and TFLite file that was asked for, each format in a process of its own.

    The integer core is written where C is generated from it, with or without TFLite files.

    Args:
        assembly: gets the files, and `core`.
        workers: the processes.
        floats: write the float32 files too; otherwise only the quantised ones.
    """
    asked = [name for name in WRITERS if name in assembly.config.formats]
    if "static_wi8_ai8" in assembly.config.recipes and "tflite" not in asked:
        asked += ["tflite"] if {"c", "arduino"} & set(assembly.config.formats) else []
    alone = replace(assembly, files={})
    for name, part in zip(
        asked, workers.map(_write_format, [(alone, name, floats) for name in asked])
    ):
        assembly.files.update(part.files)
        assembly.core = part.core or assembly.core
        with assembly.log.open("ab") as log:
            log.write((assembly.scratch / f"{name}.log").read_bytes())
    assembly.files = {key: assembly.files[key] for key in ORDER if key in assembly.files}


def _write_format(assembly: Assembly, name: str, floats: bool) -> Assembly:
    log = assembly.scratch / f"{name}.log"
    log.write_bytes(b"")
    with to_log(log):
        WRITERS[name](assembly, floats and "fp32" in assembly.config.recipes)
    return assembly


def _write_onnx_files(assembly: Assembly, floats: bool) -> None:
    if floats:
        io = onnx_file.write_onnx(plain(assembly.policy), assembly.folder / "policy.onnx")
        assembly.add("onnx_fp32", "policy.onnx", "fp32", io)
    if "static_wi8_ai8" in assembly.config.recipes:
        network = assembly.integers()
        path = assembly.folder / "policy.int8.onnx"
        io = onnx_file.quantise_onnx(network, path, assembly.states, assembly.scratch)
        assembly.add("onnx_int8", path.name, "static_wi8_ai8", io)


def _write_tflite_files(assembly: Assembly, floats: bool) -> None:
    config, asked = assembly.config, "tflite" in assembly.config.formats
    if floats and asked:
        network = plain(assembly.policy)
        model = tflite_surgery.tidy(tflite_file.convert(network))
        write_bytes(assembly.folder / "policy.tflite", model)
        io = tflite_file.float_io(model, network)
        assembly.add("tflite_fp32", "policy.tflite", "fp32", io)
    wanted = [
        recipe
        for recipe in TFLITE_RECIPES
        if recipe in config.recipes and (asked or recipe == "static_wi8_ai8")
    ]
    if wanted:
        network = assembly.integers()
        prepared = tflite_file.convert(network)
        for recipe in wanted:
            _write_tflite(assembly, network, prepared, recipe)


WRITERS: dict[str, Callable[[Assembly, bool], None]] = {
    "onnx": _write_onnx_files,
    "tflite": _write_tflite_files,
}


def _write_tflite(assembly: Assembly, network: Network, prepared: bytes, recipe: str) -> None:
    key, name = TFLITE_RECIPES[recipe]
    model = tflite_file.quantise(prepared, network, recipe, assembly.states)
    model = tflite_surgery.tidy(model)
    io = tflite_file.float_io(model, network)
    if recipe.startswith("static"):
        io.update(integer_facts(model, network))
        if recipe == "static_wi8_ai8":
            assembly.core = assembly.scratch / "core.tflite"
            write_bytes(assembly.core, model)
        if assembly.config.io == "int8":
            integer = tflite_surgery.integer_ends(model)
            model, io = integer, {**io, **integer_io(integer, io)}
    if "tflite" in assembly.config.formats:
        write_bytes(assembly.folder / name, model)
        assembly.add(key, name, recipe, io)


def integer_facts(model: bytes, network: Network) -> dict[str, Any]:
    """The integer core's scales and the float32 arithmetic before it."""
    ends = tflite_surgery.ends(model)
    return {
        "input_scale": ends.input_scale,
        "input_zero_point": ends.input_zero_point,
        "output_scale": ends.output_scale,
        "output_zero_point": ends.output_zero_point,
        "input_stage": network.stage.to_json(),
        "input_exponents": network.exponents,
        "map": (
            "v = min(max((observation - mean) * scale, -limit), limit) in float32, leaving out "
            "what is null; code = round_half_away_from_zero(v / input_scale) + input_zero_point, "
            "saturated; outputs = (code - output_zero_point) * output_scale"
        ),
    }


def integer_io(model: bytes, io: dict[str, Any]) -> dict[str, Any]:
    """How to call a full-integer file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    found = interpreter.get_input_details()[0]
    outputs = interpreter.get_signature_runner("serving_default").get_output_details()
    return {
        "input_tensor": found["name"],
        "input_dtype": found["dtype"].__name__,
        "input_shape": [int(n) for n in found["shape"]],
        "output_names": [n for n in ("outputs", "action") if n in outputs],
        "output_tensors": {name: details["name"] for name, details in outputs.items()},
        "action_dtype": "int32" if "action" in outputs else "float32",
    }


def artifact_id(files: dict[str, dict[str, Any]], student: str, core: Path | None) -> str:
    """SHA-256 over the hashes of the policy files.

    C is left out, because it carries the id; the int8 .tflite that it is
    generated from stands in for it.
    """
    hashes = {
        key: facts["sha256"] for key, facts in files.items() if key.startswith(("onnx", "tflite"))
    }
    hashes["student"] = student
    if core is not None:
        hashes["core"] = sha256_file(core)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
