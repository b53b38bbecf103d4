"""Run while the images are built: the program that hands two capabilities to a user who is not root.

A capability that the container has (``cap_add``) reaches a process of an ordinary user only through a program file
that carries it. That program is a copy of util-linux' ``setpriv`` with IPC_LOCK and SYS_NICE as *permitted*: it can
take them if the container has them and still starts if it has not. `start.sh` uses it to make them *ambient*, so that
the unmodified Python and its children keep them.

The attribute is what ``setcap cap_ipc_lock,cap_sys_nice+p FILE`` writes (struct vfs_cap_data of linux/capability.h,
revision 2: magic, then permitted and inheritable for capabilities 0..31 and for 32..63), without needing setcap.
"""

import os
import shutil
import struct
from pathlib import Path

VFS_CAP_REVISION_2 = 0x0200_0000
CAP_IPC_LOCK = 14
CAP_SYS_NICE = 23

source = shutil.which("setpriv")
if source is None:
    raise SystemExit("BASE_IMAGE has no setpriv (Debian has it in the package util-linux)")
target = Path("/opt/tickpath/bin/setpriv")
target.parent.mkdir(parents=True, exist_ok=True)
shutil.copyfile(source, target)
target.chmod(0o755)
permitted = 1 << CAP_IPC_LOCK | 1 << CAP_SYS_NICE
os.setxattr(target, "security.capability", struct.pack("<5I", VFS_CAP_REVISION_2, permitted, 0, 0, 0))
