"""Tags of clusters and backups."""

from __future__ import annotations

from hsmsim.services.cloudhsm import rules, store
from hsmsim.services.cloudhsm.service import (
    CloudHsm,
    Tag,
    need_backup,
    need_cluster,
    on_resource,
    operation,
    page,
    pairs,
    tag_list,
)
from hsmsim.services.kernel import Call, Mode, Request, Response

PAGE = 100


class TagResource(Request, frozen=True):
    """New tags, or new values."""

    resource_id: str
    tag_list: list[Tag]


class UntagResource(Request, frozen=True):
    """Keys of tags."""

    resource_id: str
    tag_key_list: list[str]


class ListTags(Request, frozen=True):
    """Whose tags."""

    resource_id: str
    next_token: str | None = None
    max_results: int = PAGE


def _need(call: Call, id_: str) -> None:
    (need_cluster if id_.startswith("cluster-") else need_backup)(call, id_)


@operation(TagResource, Mode.WRITE, on_resource)
def tag_resource(_holds: CloudHsm, call: Call, request: TagResource) -> Response:
    """TagResource."""
    _need(call, request.resource_id)
    new = rules.check_tags(pairs(request.tag_list), store.tags(call.tx, request.resource_id))
    store.set_tags(call.tx, request.resource_id, new)
    return {}


@operation(UntagResource, Mode.WRITE, on_resource)
def untag_resource(_holds: CloudHsm, call: Call, request: UntagResource) -> Response:
    """UntagResource; a key that is not there is no error."""
    _need(call, request.resource_id)
    store.remove_tags(call.tx, request.resource_id, request.tag_key_list)
    return {}


@operation(ListTags, Mode.READ, on_resource)
def list_tags(_holds: CloudHsm, call: Call, request: ListTags) -> Response:
    """ListTags, by key in order."""
    _need(call, request.resource_id)
    found = list(store.tags(call.tx, request.resource_id).items())
    taken, token = page(found, lambda one: one[0], request.next_token, request.max_results)
    return {"TagList": tag_list(dict(taken)), **({"NextToken": token} if token else {})}
