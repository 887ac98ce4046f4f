"""The back end of vhost-user: a hypervisor hands us its guest's memory and virtqueues, and we are the network device.

QEMU's vhost-user specification, split in three: `messages` are bytes and fields, `device` is what they make, `link` is
the socket they come by and the frames in the rings.
"""

from __future__ import annotations

from bucatini.links.vhost_user.device import CAPABILITIES
from bucatini.links.vhost_user.link import VhostUserLink

__all__ = ["CAPABILITIES", "VhostUserLink"]
