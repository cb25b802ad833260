"""What the observed facts mean together: which are this job's, of this attempt, and can be used. Decides nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from opd_api import names
from opd_api.conditions import ConditionType
from opd_api.documents import CheckpointReport, DocumentError, Progress
from opd_api.spec import OPDJob
from opd_api.status import Condition, Status

from ..observed import (
    ConfigFacts,
    MailboxFacts,
    ModelsJobFacts,
    Observed,
    PodFacts,
    RayClusterFacts,
    RayJobFacts,
)
from ..settings import Settings
from .times import latest, moment_of

RAY_ROLES = ("head", "trainer", "engine")
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far a node's clock may be ahead; a report from further in the future is not believed."""


@dataclass(frozen=True)
class Situation:
    """Facts, settings and time of one plan, with what follows from them."""

    observed: Observed
    settings: Settings
    now: datetime

    # ------------------------------------------------------------ the job
    @property
    def job(self) -> OPDJob | None:
        return self.observed.job

    @property
    def status(self) -> Status:
        return self.observed.status

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """As last written, by type; types nobody knows (any more) are left out."""
        return {each.type: each for each in self.status.conditions if each.type in set(ConditionType)}

    def holds(self, kind: ConditionType) -> bool:
        return self.state(kind) == "True"

    def state(self, kind: ConditionType) -> str:
        """True, False, Unknown, or "" where the condition was never set."""
        condition = self.conditions.get(kind)
        return condition.status if condition else ""

    def since(self, kind: ConditionType) -> datetime | None:
        """When the condition took its state."""
        condition = self.conditions.get(kind)
        return moment_of(condition.last_transition_time) if condition else None

    @property
    def finished(self) -> bool:
        return self.holds(ConditionType.COMPLETE) or self.holds(ConditionType.FAILED)

    # ------------------------------------------------------------ the attempt
    @property
    def attempt(self) -> int | None:
        return self.status.attempt

    @cached_property
    def rayjob(self) -> RayJobFacts | None:
        """Of the current attempt; it may be on its way out."""
        return next((each for each in self.rayjobs if each.attempt == self.attempt), None)

    @cached_property
    def rayjobs(self) -> tuple[RayJobFacts, ...]:
        """This job's, of any attempt."""
        return tuple(each for each in self.observed.rayjobs if each.owner_uid == self.observed.uid)

    @property
    def existed(self) -> bool:
        """Whether the current attempt's RayJob was made: it is there, or was seen before."""
        name = names.rayjob(self.observed.name, self.attempt) if self.attempt else None
        return name is not None and (self.rayjob is not None or self.status.ray_job_name == name)

    @cached_property
    def cluster(self) -> RayClusterFacts | None:
        """RayCluster of the current attempt."""
        named = self.rayjob.cluster_name if self.rayjob else ""
        mine = [each for each in self.observed.rayclusters if each.attempt == self.attempt and not each.deleting]
        return next((each for each in mine if each.name == named), mine[0] if mine else None)

    @cached_property
    def ray_pods(self) -> tuple[PodFacts, ...]:
        """Of any attempt, ended or not: what is there may still write."""
        return tuple(each for each in self.observed.pods if each.role in RAY_ROLES)

    def pods(self, role: str) -> list[PodFacts]:
        """Of the current attempt and not on their way out, oldest first."""
        mine = [each for each in self.observed.pods if each.role == role and not each.deleting]
        if role in RAY_ROLES:
            mine = [each for each in mine if each.attempt == self.attempt]
        return sorted(mine, key=lambda pod: (pod.created, pod.name))

    @property
    def attempt_start(self) -> datetime | None:
        return moment_of(self.status.attempt_start_time)

    @property
    def resumed(self) -> datetime | None:
        """When a suspension last ended."""
        return self.since(ConditionType.SUSPENDED) if self.state(ConditionType.SUSPENDED) == "False" else None

    @property
    def admitted(self) -> datetime | None:
        """When Kueue let the attempt go: what was before does not count."""
        return self.since(ConditionType.QUOTA_RESERVED) if self.holds(ConditionType.QUOTA_RESERVED) else None

    # ------------------------------------------------------------ children that are kept
    @property
    def config(self) -> ConfigFacts | None:
        config = self.observed.config
        return config if config and config.owner_uid == self.observed.uid else None

    @property
    def models_job(self) -> ModelsJobFacts | None:
        """This job's, and not on its way out."""
        job = self.observed.models_job
        return job if job and job.owner_uid == self.observed.uid and not job.deleting else None

    @property
    def mailbox(self) -> MailboxFacts | None:
        mailbox = self.observed.mailbox
        return mailbox if mailbox and mailbox.owner_uid == self.observed.uid else None

    @cached_property
    def strangers(self) -> tuple[str, ...]:
        """Objects that have a child's name and another owner: an earlier job of this name, or somebody's own. Before an
        attempt is made any RayJob: what has our label may have pods that write."""
        observed, job = self.observed, self.observed.name
        attempt_name = names.rayjob(job, self.attempt) if self.attempt else ""
        rayjobs = [each for each in observed.rayjobs if each.name == attempt_name or not self.existed]
        known = [
            (f"ConfigMap {names.config(job)}", observed.config),
            (f"ConfigMap {names.mailbox(job)}", observed.mailbox),
            (f"Job {names.models_job(job)}", observed.models_job),
            *((f"Deployment {each.name}", each) for each in observed.deployments),
            *((f"RayJob {each.name}", each) for each in rayjobs),
        ]
        return tuple(name for name, each in known if each is not None and each.owner_uid != observed.uid)

    # ------------------------------------------------------------ the runtime's word
    @cached_property
    def report(self) -> Progress | None:
        """The runtime's newest report, if it is of this attempt and can be believed."""
        progress = self._progress
        return progress if progress is not None and not self.report_problem and not self._outdated else None

    @cached_property
    def report_problem(self) -> str:
        """Why the newest document in the mailbox is not used; "" where it is, or where nothing is wrong with it."""
        progress = self.mailbox.progress if self.mailbox else None
        if isinstance(progress, DocumentError):
            return f"progress.json is {_WORDS[progress.reason]} and ignored: {progress.message}"
        if progress is None or self.attempt is None:
            return ""
        time = moment_of(progress.time)
        if time is None:
            return f"progress.json is ignored: its time {progress.time!r} cannot be read"
        if time > self.now + CLOCK_TOLERANCE:
            return f"progress.json is ignored: its time {progress.time} is in the future; are the nodes' clocks right?"
        late = self.attempt_start is not None and time > self.attempt_start
        if progress.attempt > self.attempt or (progress.attempt < self.attempt and late):
            return f"a report of attempt {progress.attempt} is ignored: this is attempt {self.attempt}"
        return ""

    @property
    def checkpoint(self) -> CheckpointReport | None:
        """The newest of this attempt, where it outlives the attempt's pods."""
        claimed = self.job is not None and self.job.spec.checkpoint.claim_name
        return self.report.checkpoint if self.report is not None and claimed else None

    @property
    def _progress(self) -> Progress | None:
        progress = self.mailbox.progress if self.mailbox else None
        return progress if isinstance(progress, Progress) else None

    @property
    def _outdated(self) -> bool:
        """Of an attempt before."""
        progress = self._progress
        return progress is None or progress.attempt != self.attempt

    @property
    def training(self) -> bool:
        """Whether this attempt has begun to train; a later report that says Starting again does not undo it."""
        reported = self.report is not None and self.report.phase == "Training"
        return reported or self.holds(ConditionType.TRAINING)

    @property
    def last_sign(self) -> datetime | None:
        """The newest moment at which the attempt was known to be well."""
        progress = self.status.progress
        told = (
            moment_of(self.report.time) if self.report else moment_of(progress.last_report_time if progress else None)
        )
        return latest(told, self.attempt_start, self.admitted)


_WORDS = {"TooLarge": "too large", "Unreadable": "not readable"}
