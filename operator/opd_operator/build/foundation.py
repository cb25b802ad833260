"""What a job has as long as it lives: account, mailbox, network policy, and the config that speaks for them all."""

from opd_api.documents import ModelsReport, Request
from opd_api.spec import OPDJob

from ..objects import Manifest
from ..settings import Settings
from .configmap import config, config_digest, mailbox
from .digest import digest, stamped
from .network import ray_policy
from .rbac import mailbox_role, role_binding, service_account


def foundation(
    job: OPDJob, attempt: int, models: ModelsReport | None, request: Request | None, settings: Settings
) -> tuple[Manifest, ...]:
    """In the order to apply: the config comes last, so its digest is there only when all of them are."""
    value = foundation_digest(job, attempt, models, settings)
    return (*_base(job, request, settings), stamped(config(job, models), value))


def foundation_digest(job: OPDJob, attempt: int, models: ModelsReport | None, settings: Settings) -> str:
    """Of everything but the request, which comes and goes without the rest."""
    return digest([attempt, *_base(job, None, settings), config_digest(job, models)])


def _base(job: OPDJob, request: Request | None, settings: Settings) -> tuple[Manifest, ...]:
    policies = (ray_policy(job, settings),) if settings.network_policies else ()
    return (mailbox_role(job), service_account(job), role_binding(job), mailbox(job, request), *policies)
