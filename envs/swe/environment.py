"""Episodes of software repair: where they start, what counts on the way, and how they are graded.

Milestones and the channel ``tests`` come from trials on copies of the agent's sources in sandboxes of their
own (:mod:`.bench`), made only when the sources have changed; the agent learns nothing of them. The answer is
in this process alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import Any

from turnwise.envs.cheat import Cheat
from turnwise.envs.swe import hand_in, naive, oracle
from turnwise.envs.swe.bench import Bench, Trial, counted
from turnwise.envs.swe.cheats.episodes import cheats
from turnwise.envs.swe.patch import NOTHING, PatchFailed, apply_patch, read_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.repository import owned_files, write_repository
from turnwise.envs.swe.scaffold import Scaffold
from turnwise.envs.swe.task import Changes, SweTask, Tree
from turnwise.envs.swe.tooling import install, spec_for
from turnwise.envs.tool import milestone, reward
from turnwise.envs.types import Action, AgentView, EpisodeLimits, Grade, Task, text
from turnwise.sandbox.contract import Limits, MiB, SandboxSpec

GUIDE = """You repair a repository. The issue says what is wrong, not where.

search and view find the place; replace changes a piece of a file that is in it exactly once, create and
insert add to it, undo takes the last edit of a file back. shell runs any command in the repository, test
runs its tests. When the issue is resolved and nothing else is broken, call submit: hidden tests then decide.
Changes of tests do not count. A turn may hold several calls, which are carried out in order."""

IMAGE_BASES = 16
"""Repositories of images whose files are kept in memory."""
_image_bases: OrderedDict[str, Tree] = OrderedDict()


class SweEnv(Scaffold):
    """Software repair, whatever the tasks are."""

    description = GUIDE
    limits = EpisodeLimits(turns=40)
    needs_isolation = True
    sandbox_spec = SandboxSpec(limits=Limits(memory=1024 * MiB, disk=512 * MiB, output=4 * MiB))

    # -- where episodes start

    def sandbox_for(self, task: Task) -> SandboxSpec:
        """The limits of the task's, on the root of its image."""
        return spec_for(SweTask.model_validate(task.secret.data))

    def assurance(self, task: Task) -> str:
        """The task's class."""
        return SweTask.model_validate(task.secret.data).assurance or hand_in.ONE_PROCESS

    def preparation(self, task: Task) -> str:
        """Tasks with the same repository and answer start from the same snapshot."""
        return SweTask.model_validate(task.secret.data).key

    async def prepare(self, task: Task) -> None:
        """The repository with its history of one commit, and the tools. Raises :class:`TaskProblem`."""
        swe = SweTask.model_validate(task.secret.data)
        await write_repository(self.sandbox, swe)
        await install(self.sandbox, swe)

    async def reset(self, task: Task) -> AgentView:
        """The issue. Raises :class:`TaskProblem` where baseline and reference were not checked before and
        one is wrong."""
        self.start(SweTask.model_validate(task.secret.data))
        self.offered = task
        self.given: Changes = {}
        self.latest: tuple[Changes, Trial] | None = None
        self.share = 0.0
        hand_in.judged_by(self.swe, await self.base_files())
        if not self.swe.verified:
            await self._check_baseline()
            await self._check_reference()
        return text(self.swe.issue)

    async def _check_baseline(self) -> None:
        trial, task = await self.bench.trial({}), self.swe
        if trial.timed_out:
            raise TaskProblem(
                ProblemKind.HANG, task.id, f"its tests take over {task.limits.test_seconds:g} s"
            )
        wrong = [name for name in task.fail_to_pass if name in trial.passed]
        wrong += [name for name in task.pass_to_pass if name not in trial.passed]
        if wrong:
            what = "passes" if wrong[0] in trial.passed else "fails"
            raise TaskProblem(
                ProblemKind.BASELINE,
                task.id,
                f"{wrong[0]} {what} before any change ({len(wrong)} such)",
                trial.output,
            )

    async def _check_reference(self) -> None:
        trial = await self.bench.trial(await self.gold())
        failing = [name for name in counted(self.swe) if name not in trial.passed]
        if failing:
            raise TaskProblem(
                ProblemKind.REFERENCE,
                self.swe.id,
                f"{failing[0]} does not pass with the reference repair ({len(failing)} such)",
                trial.output,
            )

    # -- the state of things

    @property
    def bench(self) -> Bench:
        """Where changes are tried out."""
        beginning = self.beginning(self.offered)
        assert beginning is not None
        return Bench(self.swe, self.sandbox_for(self.offered), beginning, self.sandboxes)

    async def base_files(self) -> Tree:
        """The files when the episode began."""
        if self.swe.repository.kind != "image":
            return (await owned_files(self.swe))[0]
        if self.swe.key not in _image_bases:
            _image_bases[self.swe.key] = await self.bench.base()
            while len(_image_bases) > IMAGE_BASES:
                _image_bases.popitem(last=False)
        return _image_bases[self.swe.key]

    async def changed(self) -> Changes:
        """The files that are not as they were, as far as they are followed."""
        await self.watch.refresh(self.sandbox)
        files = await self.base_files() if self.watch.changes else {}
        return {path: data for path, data in self.watch.changes.items() if files.get(path) != data}

    async def repair(self) -> Changes:
        """What of that could be handed in."""
        return {path: data for path, data in (await self.changed()).items() if self.swe.is_source(path)}

    async def trial(self) -> Trial | None:
        """How the tests go with the repair as it is; None where there is none, or too much."""
        repair = await self.repair()
        return await self._tried(repair) if repair and not self.watch.overrun else None

    async def _tried(self, repair: Changes) -> Trial:
        """How the tests go with a repair, which is tried once as long as it stays the same."""
        if self.latest is None or self.latest[0] != repair:
            self.latest = repair, await self.bench.trial(repair)
        return self.latest[1]

    async def gold(self) -> Changes:
        """The reference repair. Raises :class:`TaskProblem` where it does not apply."""
        try:
            paths = {path for file in read_patch(self.swe.patch) for path in (file.old, file.new)} - {NOTHING}
            files = await self.base_files()
            return apply_patch(self.swe.patch, {path: files[path] for path in paths if path in files})
        except PatchFailed as error:
            raise TaskProblem(ProblemKind.PATCH, self.swe.id, f"its patch does not apply: {error}") from None

    # -- milestones

    @milestone
    async def reproduced(self) -> bool:
        """The failure was seen: the agent ran visible tests of which one fails that should not, or wrote a
        test that fails on the repository as it was and passes on the repaired one."""
        if not self.watch.overrun and self.tested and self.swe.visible:
            trial = await self._tried(await self.repair())
            if not trial.visible:
                return True
        return await self._own_test_fails()

    async def _own_test_fails(self) -> bool:
        changed = await self.changed()
        tests: Changes = {
            path: data
            for path, data in changed.items()
            if self.swe.is_test(path) and data is not None and path.endswith(".py")
        }
        if not tests or tests == self.given or self.watch.overrun:
            return False
        self.given = dict(tests)
        before = await self.bench.run(tests, list(tests))
        failing = [name for name, passed in before.outcomes.items() if not passed]
        if not failing:
            return False
        after = await self.bench.run(tests | await self.gold(), list(tests))
        return any(after.outcomes.get(name, False) for name in failing)

    @milestone
    async def opened_fault(self) -> bool:
        """A file that the reference repair changes was viewed, or changed."""
        faulty = set(await self.gold())
        return bool(faulty & self.opened) or not faulty.isdisjoint(await self.changed())

    @milestone
    async def patched(self) -> bool:
        """The patch is not empty."""
        return bool(await self.repair()) or self.watch.overrun

    @milestone
    async def first_fixed(self) -> bool:
        """A test passes that is to be mended."""
        trial = await self.trial()
        return trial is not None and not trial.passed.isdisjoint(self.swe.fail_to_pass)

    @milestone
    async def visible_passed(self) -> bool:
        """All visible tests pass, as they were given; where there are none, nothing is broken."""
        trial = await self.trial()
        return trial is not None and trial.visible

    @milestone
    def handed_in(self) -> bool:
        """It was submitted."""
        return self.submitted

    # -- rewards and grade

    @reward("modified", level=1)
    async def modified(self) -> float:
        """Whether the patch is not empty."""
        return float(bool(await self.repair()) or self.watch.overrun)

    @reward("tests", level=2)
    async def progress(self) -> float:
        """What this turn added to the tests passed, by their weights, and not broken: over an episode they
        add up to what the repair is worth, so going back and forth gains nothing."""
        trial = await self.trial()
        share = trial.fixed(self.swe) if trial is not None else 0.0
        gained, self.share = share - self.share, share
        return gained

    async def grade(self) -> float | Grade:
        """1 for a repair that was submitted and that every hidden test agrees with."""
        if not self.submitted:
            return 0.0
        return await hand_in.graded(self.sandbox, self.bench, await self.base_files())

    @classmethod
    def cheats(cls) -> Sequence[Cheat[Any]]:
        """The catalogue."""
        return cheats()

    # -- demonstrations

    async def oracle(self) -> Action:
        """The reference repair, by way of the tools."""
        return await oracle.next_action(self)

    def random_action(self, rng: Random) -> Action:
        """What an agent might do that knows the tools but not what is wrong."""
        return naive.action(self, rng)
