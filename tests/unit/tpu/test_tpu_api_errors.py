"""Errors of the cloud: one message with a remedy for every cause."""

from __future__ import annotations

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="extra cloud is not installed")

import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from bert_jax.runtime.errors import UserError
from tpu.launch.api_errors import cloud_error, status_name
from tpu.launch.error_catalog import CATALOG

CAPACITY = (
    'There is no more capacity in the zone "us-west4-a"; you can try in another zone where Cloud'
    " TPU Nodes are offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0x1bc8f9d790be91]"
)
ZONAL = (
    "Cloud TPU received a bad request. The requested accelerator configuration for accelerator"
    ' type, "v6e-1", could not be found in the zonal accelerator configurations for "us-west4-a".;'
    " the accelerator v6e-1 was not found in zone us-west4-a [EID: 0x362c45de1b38c529]"
)
NETWORK = "The resource 'projects/p/regions/us-central1/subnetworks/default' was not found"
ACCOUNT = "Service account x@p.iam.gserviceaccount.com does not exist."
DISABLED = (
    "Cloud TPU API has not been used in project 123 before or it is disabled. Enable it by visiting"
    " https://console.developers.google.com/apis/api/tpu.googleapis.com/overview?project=123"
)
QUOTA = "Quota 'TPUV4sPreemptiblePodPerProjectPerRegionForTPUAPI' exhausted. Limit 20800 in region"
NO_QUOTA_PROJECT = (
    "Your application is authenticating by using local Application Default Credentials. The"
    " tpu.googleapis.com API requires a quota project, which is not set by default."
)
RATE = (
    "Quota exceeded for quota metric 'Create requests' and limit 'Create requests per minute' of"
    " service 'tpu.googleapis.com' for consumer 'project_number:123'."
)
LOCATION = "Permission denied on 'locations/us-central2-b' (or it may not exist)."
ACT_AS = "You do not have permission to act as service_account: x. (or it may not exist)."
FREE = "cannot create a TPU Node on a project linked to a free-trial billing account"
FLEX = 'FLEX_START provisioning model is not supported for accelerator type "v6e-1" in location "a"'
VERSION = 'Cloud TPU received an invalid argument. The field "TensorflowVersion" cannot be "2.4".'

# code and message -> kind, exit code, whether another zone may help, a word of the next step
SAMPLES = [
    (16, "Your default credentials were not found.", "auth", 1, False, "application-default login"),
    (14, "invalid_grant: Bad Request", "auth", 1, False, "application-default login"),
    (403, NO_QUOTA_PROJECT, "auth", 1, False, "set-quota-project my-project"),
    (7, "Request had insufficient authentication scopes.", "auth", 1, False, "cloud-platform"),
    (403, DISABLED, "api-disabled", 1, False, "services enable tpu.googleapis.com"),
    (403, FREE, "permission", 1, False, "billing projects link my-project"),
    (429, RATE, "rate", 69, False, "wait a minute"),
    (8, "Maximum number of CreateNode requests per minute", "rate", 69, False, "wait a minute"),
    (8, "Quota 'IN_USE_ADDRESSES' exceeded. Limit: 8.0 in region europe-central2.", "quota", 69,
     True, "tpu.internal_ip"),
    (8, QUOTA, "quota", 69, True, "queued-resources list --zone=us-west4-a --project=my-project"),
    (429, "Quota limit 'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. Limit: 0"
     " in region us-east5.", "quota", 69, True, "v5litepod-16 in us-west4-a"),
    (9, "Insufficient reserved capacity. Contact customer support to increase your reservation.",
     "capacity", 69, True, "tpu.capacity"),
    (8, CAPACITY, "capacity", 69, True, "tpu.zones"),
    (14, "The zone 'projects/p/zones/z' does not have enough resources available to fulfill the"
     " request.", "capacity", 69, True, "tpu.zones"),
    (3, "Cloud TPU received a bad request. update is not supported while in state PREEMPTED",
     "capacity", 69, True, "tpu.zones"),
    (3, ZONAL, "zone", 78, True, "accelerator-types list"),
    (3, FLEX, "zone", 78, True, "accelerator-types list"),
    (3, 'Cloud TPU received a bad request. The requested zone "asia-south1-a" is not supported.',
     "zone", 78, True, "locations list"),
    (403, "Location europe-west1-b is not found or access is unauthorized.", "zone", 78, True,
     "locations list"),
    (7, LOCATION, "zone", 78, True, "locations list"),
    (400, VERSION, "runtime", 78, False, "tpu.runtime"),
    (3, ACT_AS, "permission", 1, False, "roles/iam.serviceAccountUser"),
    (7, "Permission 'iam.serviceaccounts.actAs' denied on service account x (or it may not exist).",
     "permission", 1, False, "roles/iam.serviceAccountUser"),
    (3, ACCOUNT, "config", 78, False, "tpu.service_account"),
    (404, NETWORK, "config", 78, False, "tpu.subnetwork"),
    (409, "Resource 'projects/p/locations/z/nodes/run' already exists", "name", 64, False,
     "find its owner"),
    (3, "Invalid queued_resource_id 'Run_1'.", "name", 64, False, "hyphens"),
    (7, "Permission 'tpu.nodes.get' denied on 'projects/p/locations/us-central1-b/nodes/ai'",
     "permission", 1, False, "roles/tpu.admin"),
    (16, "Request is missing required authentication credential.", "auth", 1, False, "login"),
    (8, "The operation could not be completed.", "capacity", 69, True, "tpu.zones"),
    (503, "The service is currently unavailable.", "transient", 69, False, "run the command again"),
]  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample[2]}-{sample[1][:30]}")
def test_every_message_gets_one_line_with_a_next_step(
    sample: tuple[int, str, str, int, bool, str],
) -> None:
    code, message, kind, exit_code, elsewhere, word = sample
    error = cloud_error((code, message), "us-west4-a", "v5litepod-16", "v2-alpha", "my-project")
    assert isinstance(error, UserError)
    assert (error.kind, error.exit_code, error.retry_elsewhere) == (kind, exit_code, elsewhere)
    assert error.is_temporary == (kind in ("rate", "transient"))
    text = str(error)
    assert word in text
    assert "\n" not in text
    assert "{" not in text
    assert "EID" not in text
    assert len(text) < 600


def test_every_entry_has_a_message_and_a_source() -> None:
    assert {cloud_error((code, message)).entry for code, message, *_ in SAMPLES} == set(CATALOG)
    assert all(entry.source for entry in CATALOG)


def test_an_unknown_message_is_passed_on_in_one_line() -> None:
    error = cloud_error((9, "The moon is\n  in the wrong {house}. [EID: 0x12]"))
    assert (error.kind, error.exit_code, error.retry_elsewhere) == ("unknown", 1, False)
    assert "FAILED_PRECONDITION: The moon is in the wrong {house} (" in str(error)
    assert len(str(cloud_error((9, "word " * 1000)))) < 400
    assert "no reason given" in str(cloud_error((9, "")))


@pytest.mark.parametrize(
    ("error", "name", "kind"),
    [
        (exceptions.ServiceUnavailable("away"), "UNAVAILABLE", "transient"),
        (exceptions.DeadlineExceeded("late"), "DEADLINE_EXCEEDED", "transient"),
        (exceptions.GatewayTimeout("late"), "DEADLINE_EXCEEDED", "transient"),
        (exceptions.BadGateway("html"), "UNAVAILABLE", "transient"),
        (exceptions.TooManyRequests(QUOTA), "RESOURCE_EXHAUSTED", "quota"),
        (exceptions.ResourceExhausted(CAPACITY), "RESOURCE_EXHAUSTED", "capacity"),
        (exceptions.PermissionDenied("no"), "PERMISSION_DENIED", "permission"),
        (exceptions.Conflict("taken"), "ALREADY_EXISTS", "name"),
        (DefaultCredentialsError("Your default credentials were not found."), "UNAUTHENTICATED",
         "auth"),
        (RefreshError("Reauthentication is needed."), "UNAUTHENTICATED", "auth"),
        (RefreshError("metadata server: 500", retryable=True), "UNAVAILABLE", "transient"),
        (TransportError("no route"), "UNAVAILABLE", "transient"),
        (requests.exceptions.ConnectionError("refused"), "UNAVAILABLE", "transient"),
        (requests.exceptions.ReadTimeout("late"), "UNAVAILABLE", "transient"),
    ],
)  # fmt: skip
def test_errors_of_all_libraries_are_understood(error: Exception, name: str, kind: str) -> None:
    looked_up = cloud_error(error)
    assert (looked_up.status, looked_up.kind) == (name, kind)


def test_the_url_of_a_request_is_no_part_of_the_message() -> None:
    url = "POST http://127.0.0.1:1/v2/projects/p/locations/z/queuedResources?queuedResourceId=run: "
    error = cloud_error(exceptions.BadRequest(url + "Value for metadata entry is too large."))
    assert error.kind == "unknown"
    assert "http://127" not in str(error)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (8, "RESOURCE_EXHAUSTED"),
        (429, "RESOURCE_EXHAUSTED"),
        ("INTERNAL", "INTERNAL"),
        (77, "UNKNOWN"),
        (418, "UNKNOWN"),
    ],
)
def test_a_status_has_one_name(code: int | str, name: str) -> None:
    assert status_name(code) == name
