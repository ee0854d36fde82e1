"""The node's end of the link: Flower's Fleet API, spoken from the node's own process."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from emsfl.deploy.flower import (
    HEARTBEAT_S,
    ClockCorrectedError,
    Envelope,
    LinkError,
    LinkRefusedError,
    check_installed,
    make_record,
    quiet_environment,
    read_message,
)
from emsfl.errors import UserError

MAX_SKEW_S = 2.0
"""Clocks that differ by more are corrected; Flower refuses signatures from 5 s in the future."""


class NodeLink:
    """One node's connection to the server; every call may fail with LinkError."""

    def __init__(self, address: str, private_key: Any, authority: Path | None) -> None:
        """Prepare; nothing is sent before `activate`.

        Args:
            address: host:port of the server.
            private_key: elliptic-curve key whose public half is registered.
            authority: PEM file that the server's certificate is verified with; None: plain text.
        """
        check_installed()
        os.environ.update(quiet_environment())
        from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes
        from flwr.supernode.fleet_http_client import FleetHttpClient

        self.address = address
        self.node_id: int | None = None
        self._public = public_key_to_bytes(private_key.public_key())
        self._signer = _Signer(private_key)
        try:
            root = authority.read_bytes() if authority else None
            self._client = FleetHttpClient.from_server_address(
                address,
                authority is None,
                root,
                interceptors=[
                    RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                    self._signer,
                ],
            )
        except (OSError, ssl.SSLError, ValueError) as error:
            raise UserError(f"certificate {authority} cannot be used: {error}") from None

    @property
    def clock_offset_s(self) -> float:
        """Server's clock minus this machine's, where they are known to differ."""
        return self._signer.offset_s

    def activate(self) -> None:
        """Log in with the registered key, as this node and nobody else.

        A node that was killed is still held to be there; it is signed off first.
        """
        from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest

        if self.node_id is not None:
            try:
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
            except LinkRefusedError:
                self.node_id = None  # of a server that has been restarted since
        response = self._call(
            self._client.ActivateNode,
            ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_S),
        )
        self.node_id = int(response.node_id)

    def receive(self) -> tuple[Any, Envelope] | None:
        """Return the next message and what it carries, None where none waits."""
        from flwr.app import Message
        from flwr.proto.fleet_pb2 import PullMessagesRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_protobuf_utils import (
            make_confirm_message_received_fn_protobuf,
            make_pull_object_fn_protobuf,
        )
        from flwr.supercore.inflatable.inflatable_utils import (
            inflate_object_from_contents,
            pull_objects,
        )

        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node()))
        if not response.messages_list:
            return None
        metadata, tree = response.messages_list[0].metadata, response.message_object_trees[0]
        run_id = metadata.run_id

        def fetch() -> Any:
            contents = pull_objects(
                [part.object_id for part in iterate_object_tree(tree)],
                make_pull_object_fn_protobuf(self._client.PullObject, self._node(), run_id),
                max_time=20.0,
                initial_backoff=0.05,
                backoff_cap=0.5,
            )
            make_confirm_message_received_fn_protobuf(
                self._client.ConfirmMessageReceived, self._node(), run_id
            )(tree.object_id)
            return inflate_object_from_contents(tree.object_id, contents)

        message: Message = self._guarded(fetch)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message, read_message(message)

    def reply(self, message: Any, envelope: Envelope) -> None:
        """Answer a message."""
        from flwr.app import Message
        from flwr.app.message import remove_content_from_message
        from flwr.common.serde import message_to_proto
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            get_object_tree,
            no_object_id_recompute,
        )
        from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
        from flwr.supercore.inflatable.inflatable_utils import push_objects

        answer = Message(make_record(envelope), reply_to=message)
        answer.metadata.__dict__["_message_id"] = answer.object_id
        run_id = answer.metadata.run_id

        def send() -> None:
            with no_object_id_recompute():
                response = self._client.PushMessages(
                    PushMessagesRequest(
                        node=self._node(),
                        messages_list=[message_to_proto(remove_content_from_message(answer))],
                        message_object_trees=[get_object_tree(answer)],
                        clientapp_runtime_list=[0.0],
                    )
                )
                push_objects(
                    get_all_nested_objects(answer),
                    make_push_object_fn_protobuf(
                        self._client.PushObject, self._node(), run_id, response.session_id
                    ),
                    object_ids_to_push=set(response.objects_to_push),
                )

        self._guarded(send)

    def close(self) -> None:
        """Sign off and close the connection; a server that cannot be reached is left alone."""
        from flwr.proto.fleet_pb2 import DeactivateNodeRequest

        try:
            if self.node_id is not None:
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
        except (LinkError, LinkRefusedError):
            self.node_id = None
        self._client.close()

    def _node(self) -> Any:
        from flwr.proto.node_pb2 import Node

        return Node(node_id=self.node_id or 0)

    def _call(self, function: Callable[[Any], Any], request: Any) -> Any:
        return self._guarded(lambda: function(request))

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """Run `call`; what Flower or the network raise becomes one of this module's errors."""
        import httpx
        from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
        from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError

        try:
            return call()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == httpx.codes.UNAUTHORIZED and self._signer.set_by(error.response):
                raise ClockCorrectedError(
                    f"this clock is taken to be off by {-self._signer.offset_s:+.1f} s"
                ) from None
            text = f"{self.address} answers {status}: {error.response.text[:200]}"
            if status in (400, 401, 403, 404, 409, 412, 422):
                raise LinkRefusedError(text) from None
            raise LinkError(text) from None
        except httpx.HTTPError as error:
            raise LinkError(f"{self.address}: {error or type(error).__name__}") from None
        except (ObjectPullError, ObjectPushError, UnexpectedObjectContentError) as error:
            raise LinkError(f"a message was cut off: {error}") from None


class _Signer:
    """Signs every request with the node's key and the server's time."""

    def __init__(self, private_key: Any) -> None:
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        self._key = private_key
        self._public = public_key_to_bytes(private_key.public_key())
        self.offset_s = 0.0
        """Server's clock minus this machine's."""

    def set_by(self, response: Any) -> bool:
        """Take the time from a refusal; return whether that changed it.

        The header says whole seconds, cut off, and was written on the way: half a second and half
        of the time that the answer took are the best guess.
        """
        stated = response.headers.get("date")
        if stated is None:
            return False
        written = datetime.now(UTC) - response.elapsed / 2
        offset_s = (parsedate_to_datetime(stated) - written).total_seconds() + 0.5
        if abs(offset_s - self.offset_s) <= MAX_SKEW_S:
            return False
        self.offset_s = offset_s
        return True

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Add the headers that Flower's own interceptor adds."""
        from base64 import b64encode

        from flwr.common.constant import TIMESTAMP_HEADER
        from flwr.supercore.constant import (
            FLEET_HTTP_PUBLIC_KEY_HEADER,
            FLEET_HTTP_SIGNATURE_HEADER,
        )
        from flwr.supercore.interceptors.http.utils import add_headers
        from flwr.supercore.primitives.asymmetric import sign_message

        stamp = (datetime.now(UTC) + timedelta(seconds=self.offset_s)).isoformat()
        signature = sign_message(self._key, stamp.encode("ascii"))
        add_headers(
            context.request,
            {
                FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self._public).decode("ascii"),
                TIMESTAMP_HEADER: stamp,
                FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
            },
        )
        return call_next(context)
