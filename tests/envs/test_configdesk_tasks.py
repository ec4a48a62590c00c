"""The desk's tasks: the same bytes on every machine, splits that do not overlap, and files that parse."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.envs.tools.configdesk import ConfigDesk, generate
from turnwise.envs.tools.configdesk.generator import LEVELS, draw, share
from turnwise.envs.tools.configdesk.problem import differences, entries, value_of, with_value
from turnwise.envs.tools.configdesk.small import HORIZONS, SMALL
from turnwise.envs.types import SPLITS

levels = st.sampled_from(sorted(LEVELS))
sizes = st.sampled_from([*((level, None) for level in LEVELS), *itertools.product(SMALL, HORIZONS)])
"""Every level at its own horizon and at those it can have."""
task_seeds = st.integers(0, (3 << 32) - 1)


def content(level: int, seed: int, horizon: int | None = None) -> str:
    """A hash of all that an agent can meet in a task, and of its answer."""
    problem = generate(level, seed, horizon)
    digest = hashlib.sha256(problem.instruction.encode())
    for tree in (problem.tree, problem.expected()):
        for name, data in tree.items():
            digest.update(f"\0{problem.path(name)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


GOLDEN = {
    (1, 0): "d4c4f16fcdd48dd1",
    (1, (2 << 32) + 7): "fb62e2d7cbead140",
    (2, 0): "7d48053c7b1b99ff",
    (2, (2 << 32) + 7): "0f31cdb1d67e2dc9",
    (3, 0): "6e39065e4ed1cc5e",
    (3, (2 << 32) + 7): "b8ab42c56ae10c14",
    (4, 0): "1fd6ad400de70624",
    (4, (2 << 32) + 7): "3b8341f93c725c75",
    (5, 0): "ebfb072aba838836",
    (5, (2 << 32) + 7): "cf327cffa715594f",
}


@pytest.mark.parametrize(("level", "seed"), GOLDEN)
def test_a_seed_gives_the_same_bytes_on_every_machine(level: int, seed: int) -> None:
    assert content(level, seed) == GOLDEN[level, seed]


GOLDEN_HORIZONS = {
    (1, 4, 0): "7976e0636438edd2",
    (1, 4, (2 << 32) + 7): "b0a54b9069ac9046",
    (1, 16, 0): "e2c55d60f02b8023",
    (1, 16, (2 << 32) + 7): "8571fe78967852e2",
    (2, 4, 0): "8abf0ce081daed26",
    (2, 4, (2 << 32) + 7): "88369d53a2af74b6",
    (2, 8, 0): "82d24355f6ece70d",
    (2, 8, (2 << 32) + 7): "0e316566e8f241a4",
    (2, 16, 0): "1a8cf69ea887de88",
    (2, 16, (2 << 32) + 7): "40cc3b5f191152b9",
}


@pytest.mark.parametrize(("level", "horizon", "seed"), GOLDEN_HORIZONS)
def test_so_it_does_at_another_horizon(level: int, horizon: int, seed: int) -> None:
    assert content(level, seed, horizon) == GOLDEN_HORIZONS[level, horizon, seed]


def desk(level: int, horizon: int | None) -> ConfigDesk:
    return ConfigDesk(ConfigDesk.Options(level=level, horizon=horizon))


def test_the_horizon_of_eight_turns_is_level_1_as_it_is() -> None:
    for split in SPLITS:
        own, same = desk(1, None).task_set(split), desk(1, 8).task_set(split)
        assert own[:50] == same[:50]
        assert own.hash == same.hash, "results compare"
        for task in own[:50]:
            assert generate(1, task.ref.seed, 8) == generate(1, task.ref.seed)


def test_the_sets_of_other_horizons_are_told_apart() -> None:
    sets = [desk(1, horizon).task_set("validation") for horizon in HORIZONS]
    assert len({tasks.hash for tasks in sets}) == len({tasks[0].ref.id for tasks in sets}) == len(sets)


@given(st.sampled_from(sorted(SMALL)), st.sampled_from(sorted(HORIZONS)), task_seeds)
def test_at_a_horizon_no_two_changes_share_a_file(level: int, horizon: int, seed: int) -> None:
    """So none of them finds what another one needs, and each takes all its turns."""
    problem = generate(level, seed, horizon)
    files = [spot.file for copy in problem.copies for spot in (*copy.reads, copy.target)]
    files += [edit.file for edit in problem.edits]
    assert len(set(files)) == len(files)
    assert (len(problem.edits), len(problem.copies)) == HORIZONS[horizon]


def test_an_instruction_gives_an_edit_and_names_a_copys_keys() -> None:
    for index in range(20):
        problem = generate(1, index, 16)
        (edit,) = problem.edits
        copies = [f"copy {copy.reads[0].key} to {copy.target.key}" for copy in problem.copies]
        assert problem.instruction == " and ".join([f"set {edit.file} {edit.key} {edit.value}", *copies])


def test_an_instruction_of_edits_alone_is_in_one_split() -> None:
    """All of the question is to be seen in it, so a held-out one was not trained on in any guise."""
    told = {split: {task.public.instruction for task in desk(1, 4).tasks(split)[:500]} for split in SPLITS}
    assert sum(map(len, told.values())) == len(set().union(*told.values()))
    assert min(map(len, told.values())) >= 30


def test_a_split_is_the_same_set_of_tasks_on_every_machine() -> None:
    hashes = {level: ConfigDesk(ConfigDesk.Options(level=level)).task_set("test").hash for level in LEVELS}
    assert hashes == {
        1: "265ec39cd683",
        2: "1b559657e594",
        3: "e2b46265e5d2",
        4: "60a20d0c789e",
        5: "d76e81acab94",
    }


@given(sizes, task_seeds)
def test_every_task_belongs_to_its_seeds_split(size: tuple[int, int | None], seed: int) -> None:
    level, horizon = size
    question, _ = draw(level, seed, horizon)
    assert share(question.fingerprint) == SPLITS[seed >> 32]


@pytest.mark.parametrize(("level", "horizon"), [*((level, None) for level in LEVELS), (1, 16), (2, 8)])
def test_no_task_is_in_two_splits(level: int, horizon: int | None) -> None:
    """Not even one that differs in the files around it: what is asked, of which values, is apart."""
    env = desk(level, horizon)
    asked = {
        split: {draw(level, task.ref.seed, horizon)[0].fingerprint for task in env.tasks(split)[:400]}
        for split in SPLITS
    }
    assert all(len(questions) > 350 for questions in asked.values()), "they do not repeat themselves either"
    for one, other in itertools.combinations(SPLITS, 2):
        assert asked[one].isdisjoint(asked[other])


def test_the_shares_of_the_splits_are_eight_one_and_one_tenths() -> None:
    counts = {split: 0 for split in SPLITS}
    for number in range(5000):
        counts[share(str(number))] += 1
    assert 3900 < counts["train"] < 4100
    assert 450 < counts["validation"] < 550
    assert 450 < counts["test"] < 550


@given(sizes, task_seeds)
def test_a_task_asks_for_what_is_not_yet_so_and_can_be_found(size: tuple[int, int | None], seed: int) -> None:
    problem = generate(size[0], seed, size[1])
    expected = problem.expected()
    changed = {target.file for target in problem.targets}
    assert {name for name in problem.tree if problem.tree[name] != expected[name]} == changed
    targets = [(target.file, target.key) for target in problem.targets]
    assert len(set(targets)) == len(targets)
    for target in problem.targets:
        assert value_of(expected[target.file], target.key) == target.value
    for copy in problem.copies:
        for spot in copy.reads:
            assert value_of(problem.tree[spot.file], spot.key) == spot.value
            assert (spot.file, spot.key) not in targets, "no copy changes what another one reads"
        for spot in (*copy.reads, copy.target):
            assert spot.word in problem.tree[spot.file].decode(), "grep finds the file"


@given(st.sampled_from(sorted(SMALL)), st.sampled_from([None, *HORIZONS]), task_seeds)
def test_at_the_small_levels_a_key_is_in_one_file(level: int, horizon: int | None, seed: int) -> None:
    tree = generate(level, seed, horizon).tree
    keys = [key for data in tree.values() for key in entries(data)]
    assert len(keys) == len(set(keys))
    assert {len(entries(data)) for data in tree.values()} == {SMALL[level].keys}


@given(task_seeds)
def test_the_note_of_level_5_is_wrong_about_every_copy(seed: int) -> None:
    problem = generate(5, seed)
    note = problem.tree["NOTES.txt"].decode().splitlines()
    for copy in problem.copies:
        service = value_of(problem.tree[copy.target.file], "service")
        (claim,) = [line for line in note if line.startswith(f"- {service} {copy.target.key} is ")]
        assert claim.split()[-1] != copy.target.value


name = st.from_regex(r"[a-z][a-z_.]{0,8}", fullmatch=True)
value = st.from_regex(r"[a-zA-Z0-9_./+-]{1,6}", fullmatch=True)
sign = st.sampled_from(["=", " = ", ":", " : ", "=\t"])
behind = st.sampled_from(["", " ", "  # was 4", "\n# size = 4", "\n\n[section]"])
entry_lines = st.lists(st.tuples(name, sign, value, behind), max_size=6, unique_by=lambda entry: entry[0])


@given(entry_lines, value)
def test_a_value_is_replaced_in_place(lines: list[tuple[str, str, str, str]], other: str) -> None:
    data = "\n".join(map("".join, lines)).encode()
    assert entries(data) == {key: old for key, _, old, _ in lines}
    for place, (key, between, old, rest) in enumerate(lines):
        changed = with_value(data, key, other)
        assert changed is not None
        wanted = [*lines[:place], (key, between, other, rest), *lines[place + 1 :]]
        assert changed == "\n".join(map("".join, wanted)).encode()
        assert value_of(changed, key) == other
        assert differences(changed, entries(data)) == ({} if other == old else {key: old})
    for key in ("absent", "# size", "# was", "[section]", ".*", ""):
        assert value_of(data, key) is None
        assert with_value(data, key, other) is None
