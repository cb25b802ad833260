"""An OPDJob's children as manifests: pure builders, one kind of child a file. Same input, same bytes."""

from .configmap import mailbox
from .digest import digest_of, is_of_another
from .foundation import foundation, foundation_digest
from .models_job import models_job
from .pods import template_problems
from .rayjob import rayjob
from .teacher import teacher_set

__all__ = [
    "digest_of",
    "foundation",
    "foundation_digest",
    "is_of_another",
    "mailbox",
    "models_job",
    "rayjob",
    "teacher_set",
    "template_problems",
]
