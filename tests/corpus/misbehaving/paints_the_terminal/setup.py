"""Colours, titles, the clipboard, and a status line drawn over the last one."""

import sys

from setuptools import setup

sys.stdout.write("\x1b[2J\x1b[31mred\x1b[0m \x1b]0;new title\x07 \x1b]52;c;Y2FsYw==\x1b\\ \x9b2J done\r over\n")
sys.stdout.write("\u202edesrever \x00 <script>alert(1)</script>\n")
sys.stdout.buffer.write(b"\xff\xfe not text\n")
sys.stdout.flush()
setup(name="paints_the_terminal", version="1.0", py_modules=["paints_the_terminal"])
