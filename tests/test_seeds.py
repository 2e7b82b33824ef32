"""Episode seeds come from disjoint blocks, and from the run's seed alone."""

from hypothesis import example, given
from hypothesis import strategies as st

from pops.seeds import derive, gate_start, random_seeds, screening_seeds, training_block

seeds = st.integers(0, 2**63)
names = st.lists(st.one_of(st.integers(0, 1000), st.text(max_size=8)), max_size=4)

# More than any stage takes: 4 parts of 2.5 million states; a hundred looks of 10,000 episodes.
TRAINING, GATE, RANDOM = 10_000_000, 1_000_000, 1_000_000


# The seeds for which two runs' gates once stood end to end, which the test took for a fault.
@example(6402373705728001, 1700000000, [], 0, 1)
@given(seeds, seeds, names, st.integers(0, 99), st.integers(1, 100_000))
def test_the_blocks_are_disjoint_whatever_the_runs_seeds(seed, other, name, block, count):
    start = training_block(other, *name)
    training = (start, start + TRAINING)
    screened = screening_seeds(seed, count, block)
    screening = (screened[0], screened[-1] + 1)
    gate = (gate_start(seed), gate_start(seed) + GATE)
    random = random_seeds(other, RANDOM)
    assert 250_000_000 <= training[0] < training[1] <= 500_000_000
    assert 500_000_000 <= screening[0] < screening[1] <= 750_000_000
    assert 750_000_000 <= min(gate) < max(gate) <= 1_000_000_000
    assert 1_000_000_000 <= random[0] < random[-1] < 2**31


@given(seeds, st.integers(0, 98), st.integers(1, 100_000))
def test_screening_blocks_of_a_run_are_disjoint(seed, block, count):
    assert screening_seeds(seed, count, block)[-1] < screening_seeds(seed, count, block + 1)[0]


@given(seeds, names)
def test_seeds_are_derived_from_their_name_alone(seed, name):
    assert derive(seed, *name) == derive(seed, *name)
    assert 0 <= derive(seed, *name) < 2**32


def test_names_differ():
    found = {derive(seed, stage, i) for seed in range(5) for stage in "ab" for i in range(50)}
    assert len(found) == 500
