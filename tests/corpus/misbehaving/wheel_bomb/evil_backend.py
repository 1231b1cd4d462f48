"""A build backend of its own, whose wheel unpacks to more than any disk holds."""

import zipfile

NAME = "wheel_bomb-1.0"


def build_wheel(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/{NAME}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        wheel.writestr("wheel_bomb.py", "")
        info = zipfile.ZipInfo("zeros.bin")
        info.compress_type = zipfile.ZIP_DEFLATED
        with wheel.open(info, "w", force_zip64=True) as member:
            for _ in range(16):
                member.write(bytes(1 << 24))
        wheel.writestr(f"{NAME}.dist-info/METADATA", "Metadata-Version: 2.1\nName: wheel_bomb\nVersion: 1.0\n")
        wheel.writestr(
            f"{NAME}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: evil\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(
            f"{NAME}.dist-info/RECORD",
            "wheel_bomb.py,,\nzeros.bin,,\n"
            + "".join(f"{NAME}.dist-info/{n},,\n" for n in ("METADATA", "WHEEL", "RECORD")),
        )
    return f"{NAME}-py3-none-any.whl"
