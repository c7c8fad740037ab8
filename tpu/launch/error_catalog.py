"""Why Cloud TPU refuses a request, and the next step: the table behind `tpu.launch.explain`.

The messages are those of public threads and documents; none could be provoked here. Where nobody
seems to have shown what Cloud TPU says, the source is another of Google's services, in brackets.
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
class Row:
    """One cause.

    Attributes:
        kind: quota, capacity, permission, zone, runtime, name, auth, api-disabled, rate,
            transient (a failure of the network or of the service), config (something named in the
            config that is not there) or unknown.
        statuses: With which it comes; empty for any.
        pattern: Found in the message, whatever the case.
        text: What a person is told; `{said}` is the message itself.
        exit_code: Of the process.
        retry_elsewhere: Whether another zone may help.
        source: Where the message was seen.
    """

    kind: str
    statuses: tuple[str, ...]
    pattern: str
    text: str
    exit_code: int
    retry_elsewhere: bool
    source: str


# The first row that fits counts: particular messages stand above general ones.
ROWS = (
    Row(
        "auth",
        (),
        r"default credentials were not found|Could not automatically determine credentials",
        "no Google credentials on this machine: run `gcloud auth application-default login`",
        _OTHER,
        False,
        "google-auth 2.62: google/auth/_default.py",
    ),
    Row(
        "auth",
        (),
        r"invalid_grant|Reauthentication is needed",
        "the Google credentials have expired: run `gcloud auth application-default login`",
        _OTHER,
        False,
        "google-auth 2.62: google/oauth2/reauth.py",
    ),
    Row(
        "auth",
        (),
        r"requires a quota project|quota project.* not set",
        "the Google credentials name no project: run"
        " `gcloud auth application-default set-quota-project {project}`",
        _OTHER,
        False,
        "https://docs.cloud.google.com/docs/authentication/troubleshoot-adc",
    ),
    Row(
        "auth",
        ("PERMISSION_DENIED",),
        r"insufficient authentication scopes",
        "this VM's credentials have no scope for TPUs: give the VM the scope cloud-platform"
        " (`gcloud compute instances set-service-account VM --scopes=cloud-platform`), or run"
        " `gcloud auth application-default login` on it",
        _OTHER,
        False,
        "https://github.com/tensorflow/tpu/issues/596",
    ),
    Row(
        "api-disabled",
        (),
        r"has not been used in project|SERVICE_DISABLED|accessNotConfigured",
        "the Cloud TPU API is off in project {project}: run"
        " `gcloud services enable tpu.googleapis.com --project={project}` and wait a few minutes",
        _OTHER,
        False,
        "https://github.com/skypilot-org/skypilot/issues/4981",
    ),
    Row(
        "permission",
        (),
        r"free.trial billing|billing account|billing.* (disabled|not enabled)",
        "project {project} has no billing account that pays for TPUs: link one with"
        " `gcloud billing projects link {project} --billing-account=ID`",
        _OTHER,
        False,
        "https://github.com/tensorflow/tpu/issues/124",
    ),
    Row(
        "rate",
        ("RESOURCE_EXHAUSTED",),
        r"(requests?|queries)( limit)? per (minute|day|second)|rate.?limit",
        "the project asks Cloud TPU too often ({said}): wait a minute and run the command again",
        _LATER,
        False,
        "https://github.com/marin-community/marin/pull/6198",
    ),
    Row(
        "quota",
        (),
        r"(IN_USE|STATIC|EXTERNAL)[\w-]*ADDRESS",
        "the quota of external IP addresses is used up ({said}): set tpu.internal_ip to true, or"
        " ask for more at https://console.cloud.google.com/iam-admin/quotas?project={project}",
        _LATER,
        True,
        "https://github.com/kubernetes-sigs/sig-storage-local-static-provisioner/pull/526 (of GKE)",
    ),
    Row(
        "quota",
        ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "FAILED_PRECONDITION"),
        r"quota",
        "no quota left for {accelerator} in {zone} ({said}): suspended and failed requests count,"
        " so delete those that"
        " `gcloud compute tpus queued-resources list --zone={zone} --project={project}` shows, or"
        " ask for more at https://console.cloud.google.com/iam-admin/quotas?project={project}",
        _LATER,
        True,
        "https://github.com/marin-community/marin/issues/87 and pull/1612",
    ),
    Row(
        "capacity",
        ("FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"),
        r"reserved capacity",
        "your reservation in {zone} has no room for {accelerator}: enlarge it, or set tpu.capacity"
        " to spot or on-demand",
        _LATER,
        True,
        "https://github.com/skypilot-org/skypilot/issues/4579",
    ),
    Row(
        "capacity",
        (),
        r"no more capacity|not have enough resources|RESOURCE_POOL_EXHAUSTED|stockout"
        r"|currently unavailable in the",
        "{zone} has no {accelerator} to give now: name more zones in tpu.zones, or wait",
        _LATER,
        True,
        "https://github.com/GoogleCloudPlatform/magic-modules/pull/7297 and"
        " https://docs.cloud.google.com/compute/docs/resource-error",
    ),
    Row(
        "capacity",
        (),
        r"in state PREEMPTED",
        "{accelerator} was taken back in {zone} while it was being made: try again or name more"
        " zones in tpu.zones",
        _LATER,
        True,
        "https://github.com/skypilot-org/skypilot: sky/backends/cloud_vm_ray_backend.py",
    ),
    Row(
        "zone",
        ("INVALID_ARGUMENT", "NOT_FOUND"),
        r"accelerator .*(not found|not be found)|provisioning model is not supported for accel",
        "{zone} has no {accelerator} to offer ({said}): choose another zone, whose types"
        " `gcloud compute tpus accelerator-types list --zone=ZONE` lists",
        _CONFIG,
        True,
        "https://github.com/skypilot-org/skypilot/issues/3840",
    ),
    Row(
        "zone",
        ("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"),
        r"zone \S+ is not supported|Location \S+ is not found|denied on '?locations/",
        "{zone} is no zone in which project {project} may have TPUs: choose one of"
        " `gcloud compute tpus locations list --project={project}`",
        _CONFIG,
        True,
        "https://github.com/dstackai/gpuhunt/issues/98",
    ),
    Row(
        "runtime",
        ("INVALID_ARGUMENT", "NOT_FOUND"),
        r"(runtime|software|tensorflow)[ _]?version",
        "Cloud TPU does not know the runtime version {runtime} ({said}): set tpu.runtime to auto,"
        " or to one of `gcloud compute tpus versions list --zone={zone}`",
        _CONFIG,
        False,
        "https://github.com/tensorflow/tpu/issues/877 (of TPU Nodes)",
    ),
    Row(
        "permission",
        (),
        r"(access to|act as) (the )?service.?account|serviceAccounts?\.actAs|serviceAccountUser",
        "you may not use the service account of the slice ({said}): its owner grants that with"
        " `gcloud iam service-accounts add-iam-policy-binding ACCOUNT"
        " --member=user:YOU --role=roles/iam.serviceAccountUser`",
        _OTHER,
        False,
        "https://github.com/dora-team/fourkeys/issues/459 (of Cloud Run)",
    ),
    Row(
        "config",
        ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
        r"service.?account",
        "there is no such service account ({said}): set tpu.service_account to one of"
        " `gcloud iam service-accounts list --project={project}`",
        _CONFIG,
        False,
        "https://github.com/GoogleCloudPlatform/genai-for-marketing/issues/139 (of IAM)",
    ),
    Row(
        "config",
        ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
        r"network",
        "the network of the slice is not there ({said}): set tpu.network and tpu.subnetwork to"
        " what `gcloud compute networks subnets list --project={project}` shows for the region of"
        " {zone}",
        _CONFIG,
        False,
        "https://github.com/GoogleCloudPlatform/terraform-google-managed-instance-group/issues/37"
        " and https://github.com/hashicorp/terraform-provider-google/issues/7895 (of Compute)",
    ),
    Row(
        "name",
        ("ALREADY_EXISTS",),
        r"",
        "the name is taken in {zone} ({said}): look with"
        " `gcloud compute tpus tpu-vm list --zone={zone} --project={project}` whose it is, and"
        " choose another or delete that one",
        _ARGUMENT,
        False,
        "https://docs.cloud.google.com/tpu/docs/queued-resources",
    ),
    Row(
        "name",
        ("INVALID_ARGUMENT",),
        r"(node|queued.?resource)s?[ _.]?(id|name)\b|invalid (resource )?(id|name)",
        "Cloud TPU does not take the name ({said}): use small letters, digits and hyphens,"
        " beginning with a letter",
        _ARGUMENT,
        False,
        "https://docs.cloud.google.com/python/docs/reference/tpu/latest (queued_resource_id)",
    ),
    Row(
        "permission",
        ("PERMISSION_DENIED",),
        r"",
        "you may not manage TPUs in project {project} ({said}): an owner grants that with"
        " `gcloud projects add-iam-policy-binding {project} --member=user:YOU"
        " --role=roles/tpu.admin`",
        _OTHER,
        False,
        "https://github.com/tensorflow/tpu/issues/296 and 227",
    ),
    Row(
        "auth",
        ("UNAUTHENTICATED",),
        r"",
        "Google does not accept the credentials ({said}): run"
        " `gcloud auth application-default login`",
        _OTHER,
        False,
        "https://docs.cloud.google.com/docs/authentication/troubleshoot-adc",
    ),
    Row(
        "capacity",
        ("RESOURCE_EXHAUSTED",),
        r"",
        "{zone} gives no {accelerator} now ({said}): name more zones in tpu.zones, or wait",
        _LATER,
        True,
        "https://github.com/skypilot-org/skypilot: sky/backends/cloud_vm_ray_backend.py, code 8",
    ),
    Row(
        "transient",
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "ABORTED", "UNKNOWN"),
        r"",
        "Cloud TPU does not answer properly ({said}): wait and run the command again, which takes"
        " up where this one stopped",
        _LATER,
        False,
        "googleapis-common-protos: google/rpc/code.proto",
    ),
)

UNKNOWN = Row(
    "unknown",
    (),
    r"",
    "Cloud TPU refused with {status}: {said} (docs.cloud.google.com/tpu/docs/troubleshooting)",
    _OTHER,
    False,
    "",
)
