"""ipykernel's private API is where it was, and the kernel goes by it."""

from __future__ import annotations

import inspect

import ipykernel
from ipykernel.comm import Comm
from ipykernel.kernelbase import Kernel

from peft_nb.system import ipykernel_private
from tests.private_api import as_found

HOOKED = ipykernel.version_info[:2] >= (7, 4)


def test_all_of_it_is_where_it_was_read() -> None:
    assert (as_found(ipykernel_private.API) == ipykernel_private.API) == HOOKED
    assert ("_reply_subshell_for" in inspect.getsource(Kernel)) == HOOKED


def test_messages_go_to_the_subshell_that_they_were_sent_to() -> None:
    comm = Comm(target_name="test", primary=False)
    if HOOKED:
        comm._reply_subshell_id = "the cell's"
        assert comm._reply_subshell_for({}, "sent to") == "the cell's"
    ipykernel_private.answer_where_sent(comm)
    assert comm._reply_subshell_for({}, "sent to") == "sent to"
