"""From a request to its handler and back: the one place where an error becomes a CK_RV.

Handlers are functions (state, client, request) -> response message. They raise CkrError; a payload that does not parse
is CKR_ARGUMENTS_BAD, a database that is away CKR_DEVICE_ERROR. Anything else is a defect: it is logged with its trace
and the client gets CKR_GENERAL_ERROR, the HSM goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError, StorageError
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.engine import CLIENT_GONE
from hsmsim.hsm.firmware import access, connections, identity, keys, mtls, objects, reading, sharing, users
from hsmsim.hsm.firmware.fair import FairQueue
from hsmsim.hsm.messages import Op
from hsmsim.hsm.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.hsm.codec import Response
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State

    Handler = Callable[[State, Client, Request], Response]

_LOG = logging.getLogger(__name__)

HANDLERS: Final[dict[int, Handler]] = {
    Op.TOKEN_INFO: users.token_info,
    Op.OPEN_SESSIONS: connections.open_sessions,
    Op.CLOSE_SESSIONS: connections.close_sessions,
    Op.LOGIN: users.login,
    Op.LOGIN_TICKET: users.login_ticket,
    Op.LOGOUT: users.logout,
    Op.SET_PASSWORD: users.set_password,
    Op.CREATE_OBJECT: objects.create_object,
    Op.COPY_OBJECT: objects.copy_object,
    Op.DESTROY_OBJECT: objects.destroy_object,
    Op.OBJECT_SIZE: reading.object_size,
    Op.SET_ATTRIBUTES: objects.set_attributes,
    Op.FIND: reading.find,
    Op.KEY_FACTS: reading.key_facts,
    Op.GENERATE_KEY: keys.generate_key,
    Op.GENERATE_KEY_PAIR: keys.generate_key_pair,
    Op.WRAP_KEY: keys.wrap_key,
    Op.UNWRAP_KEY: keys.unwrap_key,
    Op.DERIVE_KEY: keys.derive_key,
    Op.ACTIVATE: users.activate,
    Op.USER_CREATE: users.user_create,
    Op.USER_LIST: users.user_list,
    Op.USER_DELETE: users.user_delete,
    Op.USER_PASSWORD: users.user_password,
    Op.PARTITION_CREATE: users.partition_create,
    Op.PARTITION_LIST: users.partition_list,
    Op.KEY_SHARE: sharing.key_share,
    Op.KEY_UNSHARE: sharing.key_unshare,
    Op.KEY_USERS: sharing.key_users,
    Op.MTLS_REGISTER: mtls.register,
    Op.MTLS_DEREGISTER: mtls.deregister,
    Op.MTLS_ANCHORS: mtls.anchors,
    Op.MTLS_ENFORCE: mtls.enforce,
    Op.MTLS_LEVEL: mtls.level,
}
UNBOUND: Final[dict[int, Callable[[State, Request], Response]]] = {
    Op.HELLO: connections.hello,
    Op.HSM_INFO: connections.hsm_info,
    Op.CERTIFICATES: identity.certificates_of,
    Op.INITIALIZE: identity.initialize,
    Op.LIMITED_WRITE: identity.limited_write,
    Op.BACKUP: identity.backup,
    Op.REMOVE_MEMBER: identity.remove_member,
}
"""What is asked before, or without, a HELLO."""
PEERS: Final = frozenset({Op.PEER_HELLO, Op.PEER_PROVE, Op.PEER_SYNC, Op.PEER_BEAT, Op.JOIN})
PASSWORDS: Final = frozenset(
    {Op.LOGIN, Op.SET_PASSWORD, Op.ACTIVATE, Op.USER_CREATE, Op.USER_PASSWORD, Op.PARTITION_CREATE}
)
WAIT_MS: Final = 200
DRAIN_SECONDS: Final = 3.0
_STOP: Final = -1  # nobody


class Dispatcher:
    """Threads that answer what the engine hands up.

    One takes the requests in and gives each to its group, so that no group holds up another: HSMs answer each other
    while all handlers wait for another HSM to apply a revocation, and a guesser of passwords delays passwords only.
    Within a group the users of the machine, and the addresses that TCP brings, take turns: whoever floods an HSM waits
    behind himself.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._stopping = False
        self._general: FairQueue[Request | None] = FairQueue()
        self._peers: FairQueue[Request | None] = FairQueue()
        self._passwords: FairQueue[Request | None] = FairQueue()
        groups = (("firmware", self._general, 8), ("peers", self._peers, 2), ("passwords", self._passwords, 2))
        self._workers = [
            (threading.Thread(target=self._work, args=(group,), name=f"{name} {n}", daemon=True), group)
            for name, group, count in groups
            for n in range(count)
        ]
        self._router = threading.Thread(target=self._route, name="router", daemon=True)

    def start(self) -> None:
        """Start answering."""
        for worker, _ in self._workers:
            worker.start()
        self._router.start()

    def stop(self) -> None:
        """Take nothing in any more, and finish what was begun."""
        self._stopping = True
        self._router.join()
        for _, group in self._workers:
            group.put(_STOP, None)
        deadline = time.monotonic() + DRAIN_SECONDS
        for worker, _ in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def _route(self) -> None:
        while not self._stopping:
            try:
                request = self._state.engine.next(WAIT_MS)
            except EOFError:
                return
            if request is None:
                continue
            if request.op in PEERS:
                self._peers.put(request.party, request)
            elif request.op in PASSWORDS:
                self._passwords.put(request.party, request)
            else:
                self._general.put(request.party, request)

    def _work(self, group: FairQueue[Request | None]) -> None:
        while (request := group.get()) is not None:
            if request.op == CLIENT_GONE:
                connections.gone(self._state, request.client)
            else:
                _answer(self._state, request)


def _answer(state: State, request: Request) -> None:
    try:
        _run(state, request)
    except CkrError as error:
        _LOG.log(logging.INFO if request.op in PEERS else logging.DEBUG, "%s: %s", Op(request.op).name, error)
        state.engine.reply(request.id, error.rv)
    except WireError as error:
        _LOG.info("%s does not parse: %s", Op(request.op).name, error)
        state.engine.reply(request.id, CKR.ARGUMENTS_BAD)
    except StorageError as error:
        _LOG.error("%s: %s", Op(request.op).name, error)
        state.engine.reply(request.id, CKR.DEVICE_ERROR)
    except Exception:  # noqa: BLE001 - the last edge: a defect costs one answer, not the HSM
        _LOG.exception("%s failed", Op(request.op).name)
        state.engine.reply(request.id, CKR.GENERAL_ERROR)


def _run(state: State, request: Request) -> None:
    op = request.op
    if op in PEERS:
        state.engine.reply(request.id, CKR.OK, state.links.handle(request, state.engine))
    elif op in UNBOUND:
        state.engine.reply(request.id, CKR.OK, UNBOUND[op](state, request).encode())
    elif request.miss:
        _run_missed(state, request)
    elif op == Op.GET_ATTRIBUTES:
        rv, payload, splices = reading.get_attributes(state, state.client(request.client), request)
        if splices:
            state.engine.reply_spliced(request.id, rv, payload, splices)
        else:
            state.engine.reply(request.id, rv, payload)
    else:
        client = state.client(request.client)
        state.engine.reply(request.id, CKR.OK, HANDLERS[op](state, client, request).encode())


def _run_missed(state: State, request: Request) -> None:
    client = state.client(request.client)
    if state.reference is not None:
        payload = state.reference.run(client.partition, request, partial(access.usable, state, client, request.session))
        if payload is not None:
            state.engine.reply(request.id, CKR.OK, payload)
            return
    keys.load_for(state, client, request)
    state.engine.retry(request.id)
