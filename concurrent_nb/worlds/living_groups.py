"""The groups that live in a process between steps. Pure: time is an argument.

A group is taken out while it advances, so that one whose step was interrupted is not used again.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from concurrent_nb.worlds.group_runner import GroupOutput, GroupRunner
from concurrent_nb.worlds.step_driver import StepTable, WorkerAnswer

#: groups that live in one process at most, of all worlds, but for a larger world; those not used for longest go first
GROUPS_MAX: Final = 64
#: seconds after which a group that was not used goes
UNUSED_S: Final = 600.0


class LivingGroups:
    """Advances groups.

    Args:
        key: of the process: no other one has or had it.
        place: host and pid, for people.
        clock: the time in seconds.
        report_call: called with step and member before each step of a member, if a table asks for that.
    """

    def __init__(
        self,
        key: str,
        place: str,
        clock: Callable[[], float],
        report_call: Callable[[int, int], None] | None = None,
    ) -> None:
        self._report_call = report_call
        self.runner: GroupRunner | None = None  #: that advances at present
        self._key = key
        self._place = place
        self._clock = clock
        #: by world and number; with the time of the last use
        self._living: OrderedDict[tuple[bytes, int], tuple[GroupRunner, float]] = OrderedDict()

    def carry_out(self, number: int, table: StepTable) -> WorkerAnswer:
        """Advance the groups that live here, and those that may be adopted.

        Args:
            number: of the order among those that have the same table.

        Raises whatever unpickling or pickling a member raises.
        """
        outputs = {}
        lost = []
        for group, (step, first_id) in table.steps.items():
            runner = None
            owner = table.owners.get(group)
            known, _ = self._living.get((table.world, group), (None, 0.0))
            if known is not None and known.batch >= table.batch:
                continue  # another order of the same table was here, or of a later one
            if owner == self._key:
                runner, _ = self._living.pop((table.world, group), (None, 0.0))
                if runner is None or (runner.step, runner.first_id) != (step - 1, first_id):
                    lost.append(group)
                    continue
            elif owner is None and group in table.offers[number] and table.barred.get(group) != self._key:
                base, sealed = table.adoptions[group]
                adoption = sealed.open()._replace(shared=table.bases[base].open())
                runner = self.runner = GroupRunner(table.terms, adoption, self._clock)
                runner.report_call = self._report_call if table.reports_calls else None
                runner.repeat(adoption.log)
            if runner is None:
                continue
            inputs = table.inputs[group].open()
            if not runner.knows(inputs):
                lost.append(group)
                continue
            runner.report_call = self._report_call if table.reports_calls else None
            self.runner = runner
            output = outputs[group] = _bare(runner.run(inputs, table.collects), runner.sent_routes)
            self.runner = None
            if not output.failed or table.terms.on_error == "drop":
                runner.batch = table.batch
                runner.first_id = first_id
                self._living[table.world, group] = runner, self._clock()
        self._remove_unused(len(table.steps))
        return WorkerAnswer(self._key, self._place, "", outputs, lost)

    def forget(self, world: bytes) -> None:
        """Remove the groups of a world."""
        for key in [key for key in self._living if key[0] == world]:
            del self._living[key]

    def __len__(self) -> int:
        return len(self._living)

    def _remove_unused(self, used: int) -> None:
        limit = max(GROUPS_MAX, used)  # those of one world need room, or they would be opened anew in each step
        while self._living:
            key, (_, used_s) = next(iter(self._living.items()))
            if len(self._living) <= limit and self._clock() - used_s < UNUSED_S:
                return
            del self._living[key]


def _bare(output: GroupOutput, sent_routes: dict[int, bytes]) -> GroupOutput:
    """Return an output without the routes that were sent to the driver before, and note those that are sent now."""
    sent = {
        group: pack.bare() if sent_routes.get(group) == pack.route.key else pack for group, pack in output.sent.items()
    }
    sent_routes.update((group, pack.route.key) for group, pack in sent.items())
    return output._replace(sent=sent)
