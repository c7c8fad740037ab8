"""Error catalog of Cloud TPU: why a request is refused, and what to do.

The messages come from public threads and documents; none could be provoked here. Where the message
of Cloud TPU itself was not found, the source is another Google service, named in brackets.
"""

from __future__ import annotations

from dataclasses import dataclass

from bert_jax.runtime.errors import (
    BadArgumentsError,
    BadInputError,
    DeviceUnavailableError,
    UserError,
)

_ARGUMENT = BadArgumentsError.exit_code
_CONFIG = BadInputError.exit_code
_LATER = DeviceUnavailableError.exit_code
_OTHER = UserError.exit_code


@dataclass(frozen=True)
class CatalogEntry:
    """A cause of refusals.

    Attributes:
        kind: quota, capacity, permission, zone, runtime, name, auth, api-disabled, rate,
            transient (a failure of the network or of the service), config (a resource named in
            the config does not exist) or unknown.
        statuses: Names of the statuses of this cause; empty for any.
        pattern: Regular expression that the message contains, in any case.
        text: Message for the user; `{message}` is the message of the service.
        exit_code: Exit code of the process.
        retry_elsewhere: True if another zone may accept the request.
        source: Where the message was published.
    """

    kind: str
    statuses: tuple[str, ...]
    pattern: str
    text: str
    exit_code: int
    retry_elsewhere: bool
    source: str


# The first entry that matches is used, so specific entries come before general ones.
CATALOG = (
    CatalogEntry(
        "auth",
        (),
        r"default credentials were not found|Could not automatically determine credentials",
        "no Google credentials on this machine: run `gcloud auth application-default login`",
        _OTHER,
        False,
        "google-auth 2.62: google/auth/_default.py",
    ),
    CatalogEntry(
        "auth",
        (),
        r"invalid_grant|Reauthentication is needed",
        "the Google credentials have expired: run `gcloud auth application-default login`",
        _OTHER,
        False,
        "google-auth 2.62: google/oauth2/reauth.py",
    ),
    CatalogEntry(
        "auth",
        (),
        r"requires a quota project|quota project.* not set",
        "the Google credentials name no project: run"
        " `gcloud auth application-default set-quota-project {project}`",
        _OTHER,
        False,
        "https://docs.cloud.google.com/docs/authentication/troubleshoot-adc",
    ),
    CatalogEntry(
        "auth",
        ("PERMISSION_DENIED",),
        r"insufficient authentication scopes",
        "the credentials of this VM have no scope for TPUs: give the VM the scope cloud-platform"
        " (`gcloud compute instances set-service-account VM --scopes=cloud-platform`), or run"
        " `gcloud auth application-default login` on it",
        _OTHER,
        False,
        "https://github.com/tensorflow/tpu/issues/596",
    ),
    CatalogEntry(
        "api-disabled",
        (),
        r"has not been used in project|SERVICE_DISABLED|accessNotConfigured",
        "the Cloud TPU API is disabled in project {project}: run"
        " `gcloud services enable tpu.googleapis.com --project={project}` and wait a few minutes",
        _OTHER,
        False,
        "https://github.com/skypilot-org/skypilot/issues/4981",
    ),
    CatalogEntry(
        "permission",
        (),
        r"free.trial billing|billing account|billing.* (disabled|not enabled)",
        "project {project} has no billing account that pays for TPUs: link one with"
        " `gcloud billing projects link {project} --billing-account=ID`",
        _OTHER,
        False,
        "https://github.com/tensorflow/tpu/issues/124",
    ),
    CatalogEntry(
        "rate",
        ("RESOURCE_EXHAUSTED",),
        r"(requests?|queries)( limit)? per (minute|day|second)|rate.?limit",
        "the project sends too many requests to Cloud TPU ({message}): wait a minute and run the"
        " command again",
        _LATER,
        False,
        "https://github.com/marin-community/marin/pull/6198",
    ),
    CatalogEntry(
        "quota",
        (),
        r"(IN_USE|STATIC|EXTERNAL)[\w-]*ADDRESS",
        "the quota of external IP addresses is exhausted ({message}): set tpu.internal_ip to true,"
        " or request more at https://console.cloud.google.com/iam-admin/quotas?project={project}",
        _LATER,
        True,
        "https://github.com/kubernetes-sigs/sig-storage-local-static-provisioner/pull/526 (of GKE)",
    ),
    CatalogEntry(
        "quota",
        ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "FAILED_PRECONDITION"),
        r"quota",
        "no quota left for {accelerator} in {zone} ({message}): delete suspended and failed"
        " requests, which count too (list them with"
        " `gcloud compute tpus queued-resources list --zone={zone} --project={project}`), or"
        " request more at https://console.cloud.google.com/iam-admin/quotas?project={project}",
        _LATER,
        True,
        "https://github.com/marin-community/marin/issues/87 and pull/1612",
    ),
    CatalogEntry(
        "capacity",
        ("FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"),
        r"reserved capacity",
        "your reservation in {zone} has no capacity for {accelerator}: enlarge it, or set"
        " tpu.capacity to spot or on-demand",
        _LATER,
        True,
        "https://github.com/skypilot-org/skypilot/issues/4579",
    ),
    CatalogEntry(
        "capacity",
        (),
        r"no more capacity|not have enough resources|RESOURCE_POOL_EXHAUSTED|stockout"
        r"|currently unavailable in the",
        "{zone} has no capacity for {accelerator} now: add zones to tpu.zones, or wait",
        _LATER,
        True,
        "https://github.com/GoogleCloudPlatform/magic-modules/pull/7297 and"
        " https://docs.cloud.google.com/compute/docs/resource-error",
    ),
    CatalogEntry(
        "capacity",
        (),
        r"in state PREEMPTED",
        "{accelerator} was preempted in {zone} during its creation: try again or add zones to"
        " tpu.zones",
        _LATER,
        True,
        "https://github.com/skypilot-org/skypilot: sky/backends/cloud_vm_ray_backend.py",
    ),
    CatalogEntry(
        "zone",
        ("INVALID_ARGUMENT", "NOT_FOUND"),
        r"accelerator .*(not found|not be found)|provisioning model is not supported for accel",
        "{zone} does not offer {accelerator} ({message}): choose another zone; list its types with"
        " `gcloud compute tpus accelerator-types list --zone=ZONE`",
        _CONFIG,
        True,
        "https://github.com/skypilot-org/skypilot/issues/3840",
    ),
    CatalogEntry(
        "zone",
        ("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"),
        r"zone \S+ is not supported|Location \S+ is not found|denied on '?locations/",
        "project {project} cannot have TPUs in zone {zone}: choose one of"
        " `gcloud compute tpus locations list --project={project}`",
        _CONFIG,
        True,
        "https://github.com/dstackai/gpuhunt/issues/98",
    ),
    CatalogEntry(
        "runtime",
        ("INVALID_ARGUMENT", "NOT_FOUND"),
        r"(runtime|software|tensorflow)[ _]?version",
        "Cloud TPU has no runtime version {runtime} ({message}): set tpu.runtime to auto,"
        " or to one of `gcloud compute tpus versions list --zone={zone}`",
        _CONFIG,
        False,
        "https://github.com/tensorflow/tpu/issues/877 (of TPU Nodes)",
    ),
    CatalogEntry(
        "permission",
        (),
        r"(access to|act as) (the )?service.?account|serviceAccounts?\.actAs|serviceAccountUser",
        "you may not use the service account of the slice ({message}): its owner grants access with"
        " `gcloud iam service-accounts add-iam-policy-binding ACCOUNT"
        " --member=user:YOU --role=roles/iam.serviceAccountUser`",
        _OTHER,
        False,
        "https://github.com/dora-team/fourkeys/issues/459 (of Cloud Run)",
    ),
    CatalogEntry(
        "config",
        ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
        r"service.?account",
        "the service account does not exist ({message}): set tpu.service_account to one of"
        " `gcloud iam service-accounts list --project={project}`",
        _CONFIG,
        False,
        "https://github.com/GoogleCloudPlatform/genai-for-marketing/issues/139 (of IAM)",
    ),
    CatalogEntry(
        "config",
        ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
        r"network",
        "the network of the slice does not exist ({message}): set tpu.network and tpu.subnetwork to"
        " those of the region of {zone} in"
        " `gcloud compute networks subnets list --project={project}`",
        _CONFIG,
        False,
        "https://github.com/GoogleCloudPlatform/terraform-google-managed-instance-group/issues/37"
        " and https://github.com/hashicorp/terraform-provider-google/issues/7895 (of Compute)",
    ),
    CatalogEntry(
        "name",
        ("ALREADY_EXISTS",),
        r"",
        "the name is already used in {zone} ({message}): find its owner with"
        " `gcloud compute tpus tpu-vm list --zone={zone} --project={project}`, then choose another"
        " name or delete that slice",
        _ARGUMENT,
        False,
        "https://docs.cloud.google.com/tpu/docs/queued-resources",
    ),
    CatalogEntry(
        "name",
        ("INVALID_ARGUMENT",),
        r"(node|queued.?resource)s?[ _.]?(id|name)\b|invalid (resource )?(id|name)",
        "Cloud TPU rejects the name ({message}): use lowercase letters, digits and hyphens, and"
        " begin with a letter",
        _ARGUMENT,
        False,
        "https://docs.cloud.google.com/python/docs/reference/tpu/latest (queued_resource_id)",
    ),
    CatalogEntry(
        "permission",
        ("PERMISSION_DENIED",),
        r"",
        "you may not manage TPUs in project {project} ({message}): an owner grants access with"
        " `gcloud projects add-iam-policy-binding {project} --member=user:YOU"
        " --role=roles/tpu.admin`",
        _OTHER,
        False,
        "https://github.com/tensorflow/tpu/issues/296 and 227",
    ),
    CatalogEntry(
        "auth",
        ("UNAUTHENTICATED",),
        r"",
        "Google rejects the credentials ({message}): run `gcloud auth application-default login`",
        _OTHER,
        False,
        "https://docs.cloud.google.com/docs/authentication/troubleshoot-adc",
    ),
    CatalogEntry(
        "capacity",
        ("RESOURCE_EXHAUSTED",),
        r"",
        "{zone} has no capacity for {accelerator} now ({message}): add zones to tpu.zones, or wait",
        _LATER,
        True,
        "https://github.com/skypilot-org/skypilot: sky/backends/cloud_vm_ray_backend.py, code 8",
    ),
    CatalogEntry(
        "transient",
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "ABORTED", "UNKNOWN"),
        r"",
        "Cloud TPU failed temporarily ({message}): wait and run the command again; it"
        " continues from here",
        _LATER,
        False,
        "googleapis-common-protos: google/rpc/code.proto",
    ),
)

UNKNOWN = CatalogEntry(
    "unknown",
    (),
    r"",
    "Cloud TPU refused the request with {status}: {message}"
    " (see docs.cloud.google.com/tpu/docs/troubleshooting)",
    _OTHER,
    False,
    "",
)
