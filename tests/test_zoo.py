"""The zoo: who labels games for the teachers, and the script that trains those."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pops.artifact import load_policy, read_json, sha256_file
from pops.envs import make_env
from pops.evaluate import evaluate
from pops.spec import EnvSpec

ZOO = Path(__file__).parent.parent / "zoo"
KEPT = "pops.atari:OnlyActions,keep="
PONG = ("pops.atari:AtariFrames", f"{KEPT}NOOP+RIGHT+LEFT")
MS_PACMAN = ("pops.atari:AtariFrames", f"{KEPT}UP+RIGHT+LEFT+DOWN")


@pytest.fixture
def zoo(monkeypatch):
    monkeypatch.syspath_prepend(str(ZOO))


def play(env, expert, seed, decisions=20_000):
    """Return of one game."""
    env.reset(seed=seed)
    expert.reset()
    total = 0.0
    for _ in range(decisions):
        values = expert.look(env.unwrapped.ale)
        assert np.isfinite(values).all()
        expert.acted(int(np.argmax(values)))
        _, reward, terminated, truncated, _ = env.step(int(np.argmax(values)))
        total += float(reward)
        if terminated or truncated:
            break
    return total


def test_a_ball_is_expected_at_one_place_while_it_approaches(zoo):
    """Also when a wall turns it round on the way."""
    sticky = {"obs_type": "ram", "repeat_action_probability": 0.25}
    env = make_env(EnvSpec("PongNoFrameskip-v4", sticky, ("pong_memory:PongMemory",)))
    expert = load_policy(ZOO / "pong-expert.safetensors")[0]
    features, _ = env.reset(seed=0)
    flights, flight = [], []
    while len(flights) < 40:
        features, _, terminated, _, _ = env.step(int(expert.act(features[None])[0]))
        if terminated:
            features, _ = env.reset()
        own = float(env.unwrapped.ale.getRAM()[51])
        if features[1] and features[11] > 0.1 and abs(features[10]) < 3:
            flight.append((features[10] * 40 + own, features[5]))
        elif flight:
            # The first decisions after a paddle touched it mix two directions.
            flights.append(np.array(flight[2:]).reshape(-1, 2))
            flight = []
    turned = sum(np.ptp(np.sign(flight[:, 1])) > 0 for flight in flights if len(flight))
    spread = np.array([np.ptp(flight[:, 0]) for flight in flights if len(flight) > 10])
    assert turned >= 10
    assert len(spread) >= 30
    assert np.median(spread) <= 2.0
    assert np.quantile(spread, 0.75) <= 3.0


def test_a_wall_turns_a_flight_round(zoo):
    from pong_memory import reflected

    assert reflected(100.0) == (100.0, False)
    assert reflected(40.0) == (49.0, True)
    assert reflected(214.0) == (197.0, True)
    assert reflected(214.0 + 2 * 161.0) == (197.0, True)
    assert reflected(100.0 - 2 * 161.0) == (100.0, False)


@pytest.mark.slow
def test_the_script_of_pong_wins(zoo):
    from scripted_pong import ScriptedPong

    env = make_env(EnvSpec("PongNoFrameskip-v4", {}, PONG))
    assert play(env, ScriptedPong(), 0, decisions=2600) == 21.0


@pytest.mark.slow
@pytest.mark.parametrize(("sticky", "least"), [(0.0, 18.0), (0.25, 11.0)])
def test_the_expert_of_pong_wins(zoo, sticky, least):
    from pong_memory import ExpertPong

    env = make_env(EnvSpec("PongNoFrameskip-v4", {"repeat_action_probability": sticky}, PONG))
    expert = ExpertPong(ZOO / "pong-expert.safetensors")
    assert np.mean([play(env, expert, seed) for seed in range(2)]) >= least


@pytest.mark.slow
def test_the_teacher_of_pong_wins():
    path = ZOO / "pong.safetensors"
    policy, facts = load_policy(path)
    assert path.stat().st_size < 8e6
    assert policy.arch.num_parameters == 1_685_667
    assert facts["evaluation_no_op"]["mean"] >= 18
    # 19 in the worst of the 30 games that it was measured on; another CPU may play another game.
    assert evaluate(policy, policy.spec.env.variant(), [10_000]).mean >= 12


@pytest.mark.slow
def test_the_teacher_of_ms_pac_man_eats():
    path = ZOO / "mspacman.safetensors"
    policy, facts = load_policy(path)
    assert path.stat().st_size < 8e6
    assert policy.arch.num_parameters == 1_686_180
    assert facts["evaluation_no_op"]["mean"] >= 2000
    assert facts["evaluation_no_op"]["episodes"] == 30
    # 1,320 in the worst of the 30 games that it was measured on, and random actions earn 250;
    # another CPU may play another game.
    assert evaluate(policy, policy.spec.env.variant(), [10_000, 10_001]).mean >= 800


@pytest.mark.slow
def test_the_student_of_ms_pac_man_is_the_one_that_passed_the_gate():
    path = ZOO / "mspacman-student.safetensors"
    policy, _ = load_policy(path)
    run = read_json(ZOO / "mspacman-student.json")
    assert sha256_file(path) == run["student"]["sha256"]
    assert sha256_file(ZOO / "mspacman.safetensors") == run["teacher"]["sha256"]
    assert policy.arch.num_parameters == run["student"]["num_parameters"] == 22_345
    assert policy.arch.num_parameters <= 0.02 * run["teacher"]["num_parameters"]
    assert run["verdict"]["passed"]
    assert len(run["gate"]["looks"]) == 1
    assert run["gate"]["looks"][0]["episodes"] == 400
    # 310 in the worst of the gate's 400 games; random actions earn 230 on average.
    assert evaluate(policy, policy.spec.env, range(10_000, 10_008)).mean >= 1000


@pytest.mark.slow
def test_the_student_of_pong_is_the_one_that_passed_the_gate():
    path = ZOO / "pong-student.safetensors"
    policy, _ = load_policy(path)
    run = read_json(ZOO / "pong-student.json")
    assert sha256_file(path) == run["student"]["sha256"]
    assert sha256_file(ZOO / "pong.safetensors") == run["teacher"]["sha256"]
    assert run["verdict"]["passed"]
    assert run["evaluation"]["beside"]["student"]["mean"] >= 18
    assert policy.arch.num_parameters == run["student"]["num_parameters"] == 122_506
    assert evaluate(policy, policy.spec.env.variant(), [10_000]).mean >= 12


@pytest.mark.slow
def test_the_scripted_player_of_ms_pacman_clears_a_maze(zoo):
    from scripted_mspacman import ScriptedMsPacman

    env = make_env(EnvSpec("MsPacmanNoFrameskip-v4", {}, MS_PACMAN))
    assert play(env, ScriptedMsPacman(), 100) > 2000


@pytest.mark.slow
def test_training_an_expert_writes_a_policy(tmp_path):
    path = tmp_path / "expert.safetensors"
    arguments = ["--out", str(path), "--steps", "4096", "--lessons", "4000", "--games", "2"]
    done = subprocess.run(
        [sys.executable, str(ZOO / "train_expert.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    policy, facts = load_policy(path)
    assert policy.arch.input_shape == (17,)
    assert facts["evaluation"]["episodes"] == facts["evaluation_no_op"]["episodes"] == 2
    assert facts["steps"] == 2 * (4096 + 409)
    assert facts == read_json(path.with_suffix(".json"))


@pytest.mark.slow
def test_imitation_writes_a_policy_and_goes_on_after_a_stop(tmp_path):
    def imitate(rounds):
        arguments = ["pong", "--out", str(tmp_path), "--rounds", str(rounds), "--steps", "4"]
        arguments += ["--updates", "1", "--games", "1", "--threads", "1"]
        done = subprocess.run(
            [sys.executable, str(ZOO / "imitate.py"), *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("round")]

    assert imitate(1) == ["round 0"]
    assert imitate(2) == ["round 1"]
    policy, facts = load_policy(tmp_path / "pong.safetensors")
    assert policy.arch.num_parameters == 1_685_667
    assert facts["evaluation"]["episodes"] == 1
    assert facts["labelled_states"] == 2 * 4 * 16
