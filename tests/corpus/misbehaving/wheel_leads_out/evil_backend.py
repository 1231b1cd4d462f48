"""A build backend of its own, whose wheel has a member that is meant for somewhere else."""

import zipfile

NAME = "wheel_leads_out-1.0"
FAR = "../" * 12 + "etc/cron.d/escaped-marker"


def build_wheel(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/{NAME}-py3-none-any.whl", "w") as wheel:
        members = {
            "wheel_leads_out.py": "",
            FAR: "* * * * * root true\n",
            f"{NAME}.dist-info/METADATA": "Metadata-Version: 2.1\nName: wheel_leads_out\nVersion: 1.0\n",
            f"{NAME}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: evil\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        for name, text in members.items():
            wheel.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*members, f"{NAME}.dist-info/RECORD"])
        wheel.writestr(f"{NAME}.dist-info/RECORD", record)
    return f"{NAME}-py3-none-any.whl"
