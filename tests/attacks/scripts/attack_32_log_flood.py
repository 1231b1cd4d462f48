"""Attack 32: print without end (lines or one line), up to the bytes named second; or what terminals obey; or garbage."""

import os
import sys

way, most = sys.argv[1], int(sys.argv[2])
CONTROLS = (
    b"\x1b[2J\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]52;c;Y2FsYw==\x1b\\ \x1bP$q\x1b\\ \x9b2J \x1b]8;;http://x/\x07link"
    b"\x1b[6n\x1b[c\x1bc \x08\x08\x7f\x0e\x0f\r over\r\n \xe2\x80\xae reversed <script>alert(1)</script>\n"
)
GARBAGE = b"nul \x00 invalid \xff\xfe \xc3\x28 \xed\xa0\x80 \xf8\x88\x80\x80\x80 end\n"


def put(data):
    while data:
        data = data[os.write(1, data) :]


if way == "controls":
    put(CONTROLS)
elif way == "garbage":
    put(GARBAGE)
else:
    piece = b"flood " * 10000 if way == "line" else (b"flood " * 12 + b"\n") * 900
    done = 0
    while done < most:
        put(piece)
        done += len(piece)
