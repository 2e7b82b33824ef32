"""Images whose planes are held once: in memory, in files, in other processes."""

import pickle

import numpy as np
import pytest
from core_envs import Drift

from pops.frames import Part, Stacks, join_states, open_stacks, state_bytes, write_stacks
from pops.journal import Journal, StageResult
from pops.replay import ReplayBuffer
from pops.rollout import collect_labelled
from pops.spec import DiscreteActions, EnvSpec, Normaliser, PolicySpec
from pops.workers import Workers


def stacked(count, frames=4, side=6, seed=0, channels_last=True):
    """`count` observations, each the last `frames` of one film, zeros before it begins."""
    film = np.random.default_rng(seed).integers(1, 256, (count, side, side), dtype=np.uint8)
    film = np.concatenate([np.zeros((frames - 1, side, side), np.uint8), film])
    stacks = [film[i : i + frames] for i in range(count)]
    return np.stack([np.moveaxis(s, 0, -1) if channels_last else s for s in stacks])


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_plane_is_held_once_and_comes_back(channels_last):
    full = stacked(50, channels_last=channels_last)
    stacks = Stacks.of(full, channels_last)
    assert len(stacks.parts[0].planes) == 51  # fifty frames, and the empty one
    np.testing.assert_array_equal(np.asarray(stacks), full)
    np.testing.assert_array_equal(stacks.observations(np.array([49, 0, 0])), full[[49, 0, 0]])
    first = stacks.gather(np.array([7]))
    np.testing.assert_array_equal(
        first[0], np.moveaxis(full[7], -1, 0) if channels_last else full[7]
    )


def test_runs_and_joins_keep_the_order():
    one, two = stacked(20, seed=1), stacked(30, seed=2)
    joined = join_states([Stacks.of(one, True), Stacks.of(two, True)])
    both = np.concatenate([one, two])
    rows = np.random.default_rng(0).integers(0, 50, 200)
    np.testing.assert_array_equal(joined.observations(rows), both[rows])
    for run in (slice(0, 50), slice(5, 25), slice(20, 50), slice(30, 30), slice(45, 99)):
        assert len(joined[run]) == len(both[run])
        np.testing.assert_array_equal(np.asarray(joined[run]), both[run])
    part = joined[10:22].compact()
    assert len(part.planes) == 13 + 3  # no plane that none of them uses
    np.testing.assert_array_equal(np.asarray(Stacks([part], True)), both[10:22])


def test_a_hundred_thousand_stacks_of_four_take_less_than_800_megabytes():
    count = 1000
    full = stacked(count, side=84)
    stacks = Stacks.of(full, True)
    assert stacks.nbytes / count * 100_000 < 800e6
    assert stacks.nbytes / count == pytest.approx(state_bytes((84, 84, 4), "uint8", 4), rel=0.01)
    assert full.nbytes / stacks.nbytes > 3.9
    spec = PolicySpec((84, 84, 4), DiscreteActions(3), "logits", "uint8", channels_last=True)
    buffer = ReplayBuffer(spec)
    buffer.add(full, np.zeros((count, 3), np.float32))
    kept, labels = buffer.arrays()
    assert (kept.nbytes + labels.nbytes) / count * 100_000 < 800e6


def test_planes_in_a_file_are_mapped_and_travel_by_name(tmp_path):
    full = stacked(200, side=20)
    small = write_stacks(tmp_path, "inputs", Stacks.of(full, True))
    path = tmp_path / "inputs.planes.npy"
    stacks = open_stacks(path, small["inputs.index"], small["inputs.channels_last"])
    assert isinstance(stacks.parts[0].planes, np.memmap)
    carried = pickle.dumps(stacks)
    assert len(carried) < 0.1 * stacks.nbytes
    np.testing.assert_array_equal(np.asarray(pickle.loads(carried)), full)
    with pytest.raises(ValueError, match="planes"):
        open_stacks(path, small["inputs.index"] + 1, small["inputs.channels_last"])


def test_a_stage_keeps_frames_and_gives_them_back(tmp_path):
    full = stacked(40)
    made = []

    def make():
        made.append(1)
        labels = np.zeros((40, 2), np.float32)
        return StageResult({"n": 1}, arrays={"inputs": Stacks.of(full, True), "labels": labels})

    for resume in (False, True):
        journal = Journal(tmp_path / "run", {"a": 1}, resume=resume, overwrite=False)
        arrays = journal.stage("start/states", make).arrays
        np.testing.assert_array_equal(np.asarray(arrays["inputs"]), full)
        assert sorted(arrays) == ["inputs", "labels"]
    assert made == [1]


def test_batches_lie_in_memory_with_their_channels_last():
    stacks = Stacks.of(stacked(30), True)
    for some in (stacks, join_states([stacks[:10], stacks[10:]])):
        gathered = some.gather(np.array([3, 12, 29]))
        assert gathered.shape == (3, 4, 6, 6)
        assert gathered.transpose(0, 2, 3, 1).flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(gathered, np.moveaxis(stacked(30)[[3, 12, 29]], -1, 1))


def test_a_batch_is_what_the_policy_would_see():
    for normaliser in (None, Normaliser((0.0,), (255.0,)), Normaliser((3.0,) * 144, (2.0,) * 144)):
        spec = PolicySpec(
            (6, 6, 4), DiscreteActions(2), "logits", "uint8", 0, True, normaliser=normaliser
        )
        full = stacked(30)
        buffer = ReplayBuffer(spec)
        buffer.add(full[:10], np.zeros((10, 2), np.float32))
        buffer.add(Stacks.of(full[10:], True), np.ones((20, 2), np.float32))
        rows = np.array([29, 0, 11])
        inputs, labels = buffer.batch(rows)
        np.testing.assert_array_equal(inputs, spec.preprocess(full[rows]))
        assert inputs.dtype == np.float32
        np.testing.assert_array_equal(labels[:, 0], [1, 0, 1])


def test_collected_frames_and_labels_do_not_depend_on_the_workers():
    from core_cases import random_policy

    from pops.arch import Conv, NetArch

    env = EnvSpec("core_envs:Drift-v0", frame_stack=3)
    spec = PolicySpec(
        (*Drift.SHAPE[:2], 3), DiscreteActions(3), "logits", "uint8", 0, True, env=env
    )
    arch = NetArch((3, *Drift.SHAPE[:2]), 3, convs=(Conv(2, 4, 2),))
    teacher, student = (random_policy(arch, spec, seed=s) for s in (1, 2))
    found = []
    for count in (1, 2):
        with Workers(count) as workers:
            found.append(
                collect_labelled(
                    teacher,
                    student,
                    env,
                    teacher_share=0.5,
                    states=90,
                    first_seed=5,
                    workers=workers,
                )
            )
    (one, labels_one), (two, labels_two) = found
    assert len(one) == len(two) == len(labels_one) == 90
    assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
    assert labels_one.tobytes() == labels_two.tobytes()
    assert labels_one.tobytes() == teacher.outputs(np.asarray(one)).tobytes()


def test_parts_without_a_file_travel_whole():
    part = Part(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.array([[0, 2]], np.int32))
    back = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(back.planes, part.planes)
    np.testing.assert_array_equal(back.index, part.index)


def test_what_does_not_fit_is_said_before_it_is_filled(tmp_path, monkeypatch):
    import pops.memory
    from pops.config import CompressConfig, DistillConfig
    from pops.errors import PopsError
    from pops.memory import available_memory, check_room, states_of_an_iteration

    env = EnvSpec("any", frame_stack=4)
    spec = PolicySpec((84, 84, 4), DiscreteActions(3), "logits", "uint8", 0, True, env=env)
    assert available_memory() > 1 << 28
    check_room(1000, spec, tmp_path)
    # 84·84 for the new frame, four numbers of planes and three labels of four bytes each.
    with pytest.raises(PopsError, match=r"10,000,000,000 states .* 70,840\.0 GB \(7,084 bytes"):
        check_room(10_000_000_000, spec, tmp_path)
    monkeypatch.setattr(pops.memory, "available_memory", lambda: 700_000_000)
    check_room(98_000, spec, tmp_path)
    with pytest.raises(PopsError, match=r"0\.7 GB of memory is free.*--distill\.states"):
        check_room(100_000, spec, tmp_path)
    config = CompressConfig(distill=DistillConfig(states=100, rounds=3, race_warm_start=False))
    more = states_of_an_iteration(config) - 300
    assert more == config.prune.states * -(-config.prune.updates // config.prune.guard_every)
