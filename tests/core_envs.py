"""Environments that tests of the compression core register: short, cheap, and some of them bad."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Steer(gym.Env):
    """Bring a mass at (position, velocity) to rest by pushing left, not at all, or right."""

    STEPS = 20

    def __init__(self, gain=1.0):
        self.observation_space = spaces.Box(-10, 10, (3,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.gain = gain

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2)
        self.steps = 0
        return self.observation(), {}

    def observation(self):
        # The third value is a distraction: no good policy needs it.
        noise = self.np_random.uniform(-1, 1)
        return np.array([*self.state, noise], np.float32)

    def push(self, action):
        return float(action) - 1.0

    def step(self, action):
        position, velocity = self.state
        velocity = 0.8 * velocity + 0.3 * self.gain * self.push(action)
        self.state = np.array([position + 0.3 * velocity, velocity])
        self.steps += 1
        reward = 1.0 - float(self.state[0] ** 2 + 0.1 * self.state[1] ** 2)
        return self.observation(), reward, False, self.steps >= self.STEPS, {}


class Glide(Steer):
    """The same with a continuous push in [-2, 2]."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-2, 2, (1,), np.float32)

    def push(self, action):
        assert action.shape == (1,)
        assert action.dtype == np.float32
        return float(action[0])


class Gamble(Steer):
    """Every episode pays, or takes, something at the end, twice what good steering is worth."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.luck = 40.0 * self.np_random.choice([-1.0, 1.0])
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + self.luck * truncated, terminated, truncated, info


class Raises(Steer):
    """Raises in the fourth step of an episode."""

    def step(self, action):
        if self.steps == 3:
            raise ZeroDivisionError("the world ended")
        return super().step(action)


class RaisesLate(Steer):
    """Raises in the gate's episodes only, so that a run is well under way when it does."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.bad = seed is not None and 750_000_000 <= seed < 1_000_000_000
        return result

    def step(self, action):
        if self.bad and self.steps == 3:
            raise ZeroDivisionError("the world ended")
        return super().step(action)


class NaNReward(Steer):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float("nan") if self.steps == 5 else reward, terminated, truncated, info


class NaNObservation(Steer):
    def step(self, action):
        observation, *rest = super().step(action)
        if self.steps == 6:
            observation = np.full(3, np.nan, np.float32)
        return (observation, *rest)


class RaisesAtReset(Steer):
    def reset(self, *, seed=None, options=None):
        raise OSError("no simulator")


class KeepsState(Steer):
    """Its second episode depends on the first: reset(seed) is not like new."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        self.gain = 1.0 + self.episodes
        self.episodes += 1
        return result


class Succeeds(Steer):
    """Ends at once with success on even seeds."""

    def reset(self, *, seed=None, options=None):
        self.success = seed is not None and seed % 2 == 0
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, _, _, _ = super().step(action)
        return observation, reward, True, False, {"is_success": self.success}


class Drift(gym.Env):
    """An image game: be under what falls. Pixels of 12 by 12, an episode of four falls."""

    SHAPE = (12, 12, 1)
    FALLS = 4

    def __init__(self, falls=FALLS):
        self.observation_space = spaces.Box(0, 255, self.SHAPE, np.uint8)
        self.action_space = spaces.Discrete(3)
        self.all_falls = falls

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.paddle, self.falls = 6, 0
        self.drop()
        return self.picture(), {}

    def drop(self):
        self.ball, self.height = int(self.np_random.integers(1, 11)), 0

    def picture(self):
        image = np.zeros(self.SHAPE, np.uint8)
        image[self.height, self.ball] = 255
        image[11, max(0, self.paddle - 1) : self.paddle + 2] = 128
        return image

    def step(self, action):
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 1, 10))
        self.height += 1
        reward = 0.0
        if self.height == 10:
            reward = 1.0 if abs(self.ball - self.paddle) <= 1 else -1.0
            self.falls += 1
            self.drop()
        return self.picture(), reward, self.falls == self.all_falls, False, {}


class Clock(gym.Env):
    """Shows for 200 steps how many have passed."""

    def __init__(self):
        self.observation_space = spaces.Box(0, 200, (3,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(3, self.time, np.float32), 0.0, self.time == 200, False, {}


class SameAlways(Steer):
    """Every episode is the same, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=7)


class DoubleReward(gym.RewardWrapper):
    def reward(self, reward):
        return 2.0 * float(reward)


NAMES = (Steer, Glide, Gamble, Raises, RaisesLate, NaNReward, NaNObservation, RaisesAtReset)
for kind in (*NAMES, KeepsState, Succeeds, Drift, Clock, SameAlways):
    gym.register(f"{kind.__name__}-v0", entry_point=f"core_envs:{kind.__name__}")


def _needs_a_package(**kwargs):
    import a_package_that_nobody_has  # noqa: F401


gym.register("NeedsPackage-v0", entry_point="core_envs:_needs_a_package")
