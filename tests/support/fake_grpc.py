"""The fake cloud over gRPC, with the methods of tpu.googleapis.com."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.cloud import tpu_v2
from google.longrunning import operations_pb2

from tpu.rehearsal.fake_cloud import FakeCloud
from tpu.rehearsal.fake_validation import ApiError


@contextmanager
def serve(cloud: FakeCloud) -> Iterator[str]:
    """Serve on this machine within the context; yield the address."""
    with ThreadPoolExecutor(4) as workers:
        server = grpc.server(workers)
        server.add_generic_rpc_handlers(
            (
                # The library has no servicer; the methods follow from the names of its requests.
                _service("google.cloud.tpu.v2.Tpu", tpu_v2, cloud),
                _service("google.longrunning.Operations", operations_pb2, cloud),
            )
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def _service(name: str, messages: Any, cloud: FakeCloud) -> grpc.GenericRpcHandler:
    methods = {}
    for message in dir(messages):
        if message.endswith("Request"):
            rpc, kind = message.removesuffix("Request"), getattr(messages, message)
            methods[rpc] = grpc.unary_unary_rpc_method_handler(
                _answer(cloud, rpc),
                request_deserializer=getattr(kind, "deserialize", None) or kind.FromString,
                response_serializer=_serialized,
            )
    return grpc.method_handlers_generic_handler(name, methods)


def _answer(cloud: FakeCloud, rpc: str) -> Callable[[Any, grpc.ServicerContext], Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return cloud.call(rpc, request)
        except ApiError as error:
            context.abort(grpc.StatusCode[error.status], error.message)

    return answer


def _serialized(answer: Any) -> bytes:
    if hasattr(answer, "DESCRIPTOR"):
        return answer.SerializeToString()
    return type(answer).serialize(answer)
