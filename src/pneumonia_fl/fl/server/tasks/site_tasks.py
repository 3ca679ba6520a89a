"""Tasks for sites: sending them, waiting for the results, and handing each result to whoever asked for it.

Results arrive in threads of NVFlare's while the controller's own thread waits. NVFlare hands on one at a time.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply
from nvflare.apis.utils.fl_context_utils import gen_new_peer_ctx
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.model_controller import ModelController

from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.protocol.messages import FIRST_JOB, LACKS_REFERENCE, SITE_REPORT
from pneumonia_fl.fl.protocol.update_checks import array_bytes
from pneumonia_fl.fl.server.tasks.round_tracker import RoundTracker, SiteProblems
from pneumonia_fl.inputs.text import printable

UNREADABLE = "its answer cannot be read"
NO_ANSWER, NOT_CONNECTED = "no answer in time", "no sign of it yet: not connected, or it did not take the job"
AFTER_CLOSING = "answered after the round had closed"
REFRESH_SECONDS = 2.0
"""How often the list of sites is fetched again: a site that was restarted has a new session."""

OnResult = Callable[[str, FLModel], object]
"""Called with a site and its result; what it returns is not used."""


@dataclass(frozen=True)
class TaskLimits:
    """Time limits and quorum of a task.

    Args:
        quorum: accepted results that a round needs; 0: those of all expected sites.
        grace: seconds that a round waits for the others once the quorum has answered.
        round_timeout: seconds after which a task ends in any case.
        stall_timeout: seconds without a sign from any site after which the job ends.
        check_period: seconds between two looks at the open tasks.
    """

    quorum: int
    grace: float
    round_timeout: int
    stall_timeout: int
    check_period: float


class SiteTasks:
    """Sends tasks to sites and waits for them.

    Args:
        controller: NVFlare's side of the job.
        tracker: says who is waited for, and when to stop waiting.
        problems: receives results that cannot be read, and those that come too late.
        limits: how long to wait.
    """

    first_job = ""
    """Id of the job with which the chain of resumed jobs began; sites keep their own state under it."""

    def __init__(
        self, controller: ModelController, tracker: RoundTracker, problems: SiteProblems, limits: TaskLimits
    ) -> None:
        self._controller, self._tracker, self._problems, self._limits = controller, tracker, problems, limits
        self._unread: dict[str, str] = {}
        self._refreshed = time.time()
        self.sent: Counter[str] = Counter()
        """Bytes of arrays that went to each site; whoever writes them down takes them out."""

    def send(
        self,
        task: str,
        data: FLModel,
        sites: list[str],
        on_result: OnResult,
        complete: FLModel | None = None,
    ) -> None:
        """Send a task and return at once; `on_result` is called in a thread of NVFlare's.

        `complete`: what a site is sent that cannot read `data`, which is a difference to a model that it lacks.
        """
        controller = self._controller
        data.meta[FIRST_JOB] = self.first_job
        self.sent.update(dict.fromkeys(sites, array_bytes(data.params, data.meta)))
        controller.set_fl_context(data)
        message = Task(
            name=task,
            data=FLModelUtils.to_shareable(data),
            timeout=self._limits.round_timeout,
            result_received_cb=partial(self._receive, on_result, complete),
        )
        controller.info(f"Sending task {task} to {sites}")
        # 0: every site's result is waited for.
        controller.broadcast(message, controller.fl_ctx, sites, min_responses=0)

    def wait(self) -> bool:
        """Wait until all tasks are over; False when the job is aborted meanwhile.

        Raises:
            RunError: no site has given a sign for too long.
        """
        while self._standing():
            if self._controller.abort_signal.triggered:
                return False
            time.sleep(self._limits.check_period)
        return True

    def ask(
        self,
        task: str,
        data: FLModel,
        sites: list[str],
        on_result: OnResult,
        phase: str = "",
        complete: FLModel | None = None,
    ) -> dict[str, str]:
        """Send a task between or after the rounds and wait for it; silence ends nothing.

        Args:
            task: its name.
            data: what is sent, with the number of rounds that are done.
            sites: who is asked.
            on_result: as of `send`.
            phase: what the tracker shows; "": the task's name.
            complete: as of `send`.

        Returns:
            The sites that gave no answer, and why.
        """
        self._tracker.open(data.current_round, phase or task)
        self.send(task, data, sites, on_result, complete)
        try:
            self.wait()
        except RunError as error:  # the rounds that are done stay so
            self._controller.warning(str(error))
            self._controller.cancel_all_tasks()
        absent = sorted(set(sites) - set(self._tracker.accepted))
        return {site: self._tracker.sites[site].problem or NO_ANSWER for site in absent}

    def close_round(self, quorum: bool = False) -> None:
        """Name the sites that are still waited for as late; with `quorum`, the round must count.

        Raises:
            RunError: it does not.
        """
        for site in [] if self._tracker.cannot_reach_quorum() else self._tracker.waiting():
            self._problems.reject(
                site, "late", NO_ANSWER if self._tracker.heard_from(site) else NOT_CONNECTED
            )
        if quorum and not self._tracker.complete:
            raise RunError(self._tracker.shortfall())

    def receive_unknown(self, site: str, task: str) -> None:
        """Name a result of a task that is over; it says nothing about the round that is open."""
        if task != AppConstants.TASK_TRAIN:
            self._controller.error("Ignoring result from unknown task.")
        elif reason := self._unread.pop(site, ""):
            self._problems.reject(site, "refused", reason)
        else:
            self._problems.note(site, "late", AFTER_CLOSING)

    def refuse_unread(self, client: Client, reason: str) -> None:
        """End the task of a site whose result the door has refused, as if the site had failed."""
        for task in list(self._controller.communicator._client_task_map.values()):
            if task.client.name == client.name and not task.result_received_time:
                self._unread[client.name] = reason
                self._submit_failure(task)
                self._unread.pop(client.name, None)  # the task may be over by now

    def _standing(self) -> bool:
        """Return True while a task is open; close it when its time limit is reached."""
        tracker, limits, controller = self._tracker, self._limits, self._controller
        if tracker.silent_seconds() > limits.stall_timeout:
            waiting = ", ".join(tracker.waiting())
            raise RunError(f"no sign from any site for {limits.stall_timeout} s; waiting for {waiting}")
        if tracker.should_close():
            controller.cancel_all_tasks()
        if time.time() - self._refreshed >= REFRESH_SECONDS:
            controller.engine.sync_clients_from_main_process()
            self._refreshed = time.time()
        return bool(controller.get_num_standing_tasks())

    def _receive(
        self, on_result: OnResult, complete: FLModel | None, client_task: ClientTask, fl_ctx: FLContext
    ) -> None:
        """Process one result; an invalid one is rejected and cannot end the task."""
        site, opened = client_task.client.name, self._tracker.opened
        asked_again = False
        try:
            code = client_task.result.get_return_code()
            if reason := self._unread.pop(site, ""):
                self._problems.reject(site, "refused", reason)
            elif code and code != ReturnCode.OK:
                self._problems.reject(site, "failed", printable(code))
            else:
                result = FLModelUtils.from_shareable(client_task.result)
                result.meta["client_name"] = site
                asked_again = complete is not None and lacks_reference(result)
                if complete is not None and asked_again:
                    self.send(client_task.task.name, complete, [site], on_result)
                else:
                    on_result(site, result)
        except Exception as error:
            self._controller.error(f"answer of {site}: {printable(error)}")
        finally:
            client_task.result = None  # NVFlare would keep the arrays as long as the task
        if not asked_again and opened == self._tracker.opened and site in self._tracker.waiting():
            self._problems.reject(site, "refused", UNREADABLE)

    def _submit_failure(self, task: ClientTask) -> None:
        """Answer a task in the place of its site."""
        with self._controller.engine.new_context() as fl_ctx:
            peer = gen_new_peer_ctx(fl_ctx)
            peer.set_prop(ReservedKey.IDENTITY_NAME, task.client.name, private=False, sticky=False)
            fl_ctx.set_peer_context(peer)
            runner = fl_ctx.get_prop(FLContextKey.RUNNER)
            failed = make_reply(ReturnCode.BAD_TASK_DATA)
            runner.process_submission(task.client, task.task.name, task.id, failed, fl_ctx)


def lacks_reference(result: FLModel) -> bool:
    """Return True when a site says that it has nothing to which the difference could be added."""
    report = result.meta.get(SITE_REPORT)
    problem = report.get("problem") if isinstance(report, dict) else None
    return isinstance(problem, str) and problem == LACKS_REFERENCE
