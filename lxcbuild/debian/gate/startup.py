"""Files that others run or load without having asked for the package: what a generated package must not bring.

A file need not be a maintainer script to run as root: Python reads ``*.pth`` and ``usercustomize`` at every start (site.html of its
documentation), and Debian's sitecustomize imports one more module if it is there; dpkg does not know the byte code below
``__pycache__`` and so overwrites another package's, the dynamic linker takes ``glibc-hwcaps/*/libc.so.6`` before the C library,
``update-alternatives`` owns links that no package lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lxcbuild.debian.gate.artifacts import TarMember

_SITE = r"usr/lib/python3(?:\.\d{1,2})?/dist-packages"
_PTH = re.compile(rf"({_SITE})/[^/]+\.pth")
_PATH_LINE = re.compile(r"(?!import\b)[A-Za-z0-9_][\w+-]*(?:\.[\w+-]+)*(?:/[\w+-]+(?:\.[\w+-]+)*)*")
#: site's own two, what Debian's and Ubuntu's /etc/python3*/sitecustomize.py imports, and what setuptools and pip ask for.
_HOOK = re.compile(
    rf"{_SITE}/(?:sitecustomize|usercustomize|apport_python_hook|_distutils_system_mod|_manylinux)(?:\..+|/.*|$)"
)
#: Entry points that Python 3.15 calls at every start (PEP 829), and what setuptools' pkg_resources takes for places of projects.
_START_FILE = re.compile(rf"{_SITE}/[^/]+\.(?:start|egg-link|egg(?:/.*)?)", re.IGNORECASE)
#: Parts of the standard library that Debian has in packages of their own: where those are not installed, others find this.
_SPLIT = re.compile(rf"{_SITE}/(?:distutils|ensurepip|idlelib|lib2to3|tkinter|turtledemo)(?:\..+|/.*|$)")
_BYTECODE = re.compile(r"(?:.*/)?__pycache__/.*|.+\.py[co]")
_RTUPDATE = re.compile(r"usr/share/python3/(?:runtime\.d|dist|bcep)/.+")
#: Links of update-alternatives and of maintainer scripts in a usual installation: no package lists them, so dpkg would let a file
#: take their place. Programs that packages list are the suite's to know (``owned``).
_COMMANDS = """
awk nawk which pager editor ex vi vim view vimdiff rvim rview pico nc netcat telnet ftp rsh rlogin rcp write lzma unlzma
lzcat python python2 python3 pydoc cc c++ c89 c99 cpp f77 f95 gcc g++ ld lex yacc fakeroot rename infobrowser w
traceroute mt from x-terminal-emulator x-www-browser www-browser x-session-manager x-window-manager gnome-www-browser
aptitude iptables ip6tables ebtables arptables java javac jar php node nodejs npm ruby gem lua request tclsh erl pinentry sh
bash
aclocal automake automake-1.16 animate compare composite conjure convert display identify import mogrify montage stream
appletviewer jar jarsigner javadoc javap javaws jaotc jcmd jconsole jdb jdeprscan jdeps jexec jfr jhsdb jimage jinfo jjs jlink jmap
jmod jpackage jps jrunscript jshell jstack jstat jstatd jwebserver keytool native2ascii orbd pack200 policytool rmic rmid
rmiregistry schemagen serialver servertool tnameserv unpack200 wsgen wsimport xjc
bundle erb irb rake rdoc ri testrb luac lua-compiler lua-interpreter erlc escript phar phar.phar phpize php-config php-cgi phpdbg
js prolog scheme scheme-r5rs scheme-srfi-0 scheme-srfi-7 ghc ghci ghc-pkg haddock hsc2hs runghc runhaskell haskell-compiler
cli csc resgen qmake moc uic mpicc mpiCC mpicxx mpic++ mpif77 mpif90 mpifort mpirun mpiexec
emacs emacsclient ctags ctags.emacs ebrowse etags eview evim gview gvim gvimdiff rgview rgvim ksh rksh csh pdksh
lft lzcmp lzdiff lzegrep lzfgrep lzgrep lzless lzma lzmore lzip mail mailx Mail locate updatedb open pax pftp finger tftp
pinentry-x11 slogin ssh-askpass su-to-root telnet.netkit tcptraceroute traceroute6 traceproto unrar rar lha mkisofs cdrecord
iptables-save iptables-restore ip6tables-save ip6tables-restore faked faked-sysv faked-tcp figlet fortune
"""
#: A version of an interpreter that the suite lacks is whatever scripts of others name.
_INTERPRETER = re.compile(r"(?:python|pydoc|perl|ruby|gem|php|lua|tclsh|request|node)[0-9.]+(?:-[a-z]+)?")
#: Directories of /usr/share that programs of the system act on: a project of that name gets none.
_SHARED = """
accountsservice alsa apparmor applications apport apt apt-listchanges apps autostart base-files base-passwd bug
bash-completion ca-certificates calendar cargo cmake common-licenses cracklib cron cups dbus-1 debconf debhelper debianutils
debootstrap debugedit defaults dh-python dictionaries-common dict dns doc doc-base dpkg emacs factory fish fontconfig fonts
games gcc gdb gdm gettext gimp git-core glib-2.0 glvnd gnome gnupg gocode grub gtk-3.0 gtk-4.0 gvfs hal help i18n icons icu
ieee-data info initramfs-tools initscripts insserv java javascript jupyter keyrings kservices5 libc-bin libreoffice lightdm lintian
locale login logrotate lua man man-db mime mime-info menu metainfo misc nano nginx nodejs nvim openssh openssl os-prober p11-kit pam
pam-configs perl perl5 php pixmaps pkgconfig plymouth polkit-1 postgresql ppp publicsuffix pypy3 pyshared python python3
python-wheels readline ruby screen sddm selinux sensible-utils sgml site-lisp snmp sounds ssl-cert sudo sysctl.d systemd
sysusers.d tabset tcltk terminfo themes texlive thumbnailers tmpfiles.d udev ufw unattended-upgrades upstart usb_modeswitch
user-tmpfiles.d vala vim vulkan wayland-sessions X11 x11 xml xsessions xml-core zoneinfo zsh
"""
#: Directories of /etc that programs of the system read: a project of that name gets none. Nor does one with a dot in its name
#: (``profile.d``, ``cron.d``): that is how directories are called whose files are taken together.
_CONFIGURATION = """
acpi adduser alternatives ansible apache2 at-spi2 audit auto avahi bind binfmt bluetooth chrony containerd containers cni consul
credstore cron default dhcp dhcpcd dnsmasq docker dovecot environment ethertypes exim4 fail2ban freeradius fuse gai gdm3 gitlab
grafana groff haproxy httpd icinga2 ifplugd initramfs-tools inputrc iproute2 iptables iscsi jenkins kernel keepalived
kubernetes ldap letsencrypt libvirt lighttpd logcheck lvm lxc lxd mailcap mariadb mercurial modprobe modules mongodb monit
mosquitto mpi mplayer mpv munin mysql nagios netplan network networks nfs nftables nss ntp ntpsec ollama openldap openvpn opt
packagekit pki podman postfix prometheus proftpd protocols pulse puppet qemu rabbitmq redis resolvconf rpc rspamd rsyslog salt
samba security selinux services shells skel snmpd squid ssh ssl sssd strongswan sv swanctl syslog-ng systemd terminfo tinyproxy tor
tuned unbound update-motd uwsgi uwsgi-emperor vagrant vault vbox vnc vpnc wgetrc wireguard wireplumber wpa_supplicant xdg xen
zabbix zookeeper
"""
#: Functions of zsh's own completion (zshcompsys(1)) that complete no command of a package: zsh takes a package's before its own.
_ZSH_FUNCTIONS = """
absolute_command_paths alias aliases all_labels all_matches alternative approximate arch_archives arch_namespace arg_compile
arguments arrays assign bash_completions baudrates be_name bind_addresses bindkey bpf_filters brace_parameter bsd_disks builtin
cache_invalid call_function call_program canonical_paths capabilities cd cmdambivalent cmdstring combination command
command_names comp_locale compadd compdef complete complete_debug complete_help complete_help_generic complete_tag completers
condition correct correct_filename correct_word ctags_tags date_formats dates deb_architectures deb_codenames deb_files
deb_packages debbugs_bugnumber default delimiters describe description dict_words diff_options dir_list directories
directory_stack dirs disable dispatch dns_types domains dynamic_directory_name email_addresses emulate enable equal exec
expand_alias expand_word extensions external_pwds fbsd_architectures fbsd_device_types file_descriptors file_flags file_modes
file_systems files find_net_interfaces functions fuse_arguments fuse_values global_tags globflags globqual_delims globquals
gnu_generic hash have_glob_qual history history_complete_word history_modifiers hosts ignored in_vared jails java_class jobs
jobs_bg jobs_builtin jobs_fg ktrace_points limit limits list list_files logical_volumes login_classes mac_applications
mac_files_for_application mailboxes main_complete match math math_params menu message mime_types module_math_func
most_recent_file multi_parts my_accounts nbsd_architectures net_interfaces newsgroups next_label next_tags normal nothing
numbers object_files obsd_architectures oldlist options options_set options_unset parameter parameters path_commands path_files
perl_basepods pgids physical_volumes pick_variant pids pkg_instance ports precommand printers process_names python_modules read
read_comp redirect regex_arguments regex_words remote_files requested retrieve_cache retrieve_mac_apps routing_domains
routing_tables sched selinux_contexts selinux_roles selinux_types selinux_users sep_parts sequence services set set_command
setopt setup signals source ssh_hosts store_cache sub_commands subscript suffix_alias_files svcs_fmri sys_calls tags tar_archive
terminals tilde_files time_zone trap ttyctl ttys typeset ulimit umountable unhash urls user_admin user_at_host user_expand
user_math_func users_on value values vared vars vcs_info_hooks volume_groups wait wakeup_capable_devices wanted watch-snoop
which widgets x_arguments x_borderwidth x_color x_colormapid x_cursor x_display x_extension x_font x_geometry x_keysym x_locale
x_modifier x_name x_resource x_selection_timeout x_title x_utils x_visual x_window xt_arguments xt_session_id zfs_dataset
zfs_pool zle zmodload zones zstyle
"""


def search_names(members: Sequence[TarMember]) -> Iterator[tuple[TarMember, str]]:
    """Every member with each name by which Python finds it: what lies in a directory that a .pth file names is found as if it lay
    beside that file."""
    roots = {
        f"{match[1]}/{line}": match[1]
        for member in members
        if (match := _PTH.fullmatch(member.name)) is not None
        for line in _pth_lines(member) or ()
        if _PATH_LINE.fullmatch(line)
    }
    for member in members:
        yield member, member.name
        above = member.name.rpartition("/")[0] if roots else ""
        while above:
            if above in roots:
                yield member, f"{roots[above]}/{member.name.removeprefix(above + '/')}"
            above = above.rpartition("/")[0]


def check_start(members: Sequence[TarMember]) -> Iterator[tuple[TarMember, str]]:
    """Members that a start of Python runs, or that say what it runs, with a message; for packages of any kind."""
    directories = {member.name.rpartition("/")[0] for member in members}
    for member, name in search_names(members):
        if _HOOK.match(name):
            yield member, "is run by every start of Python, or of a tool that everybody uses"
        elif _START_FILE.fullmatch(name):
            yield member, "is read at starts of Python, or names code that is"
        elif (match := _PTH.fullmatch(name)) is not None and name == member.name:
            bad = _bad_line(member, match[1], directories)
            if bad is not None:
                message = "is read at every start of Python, and says more than in which own directories modules lie"
                yield member, f"{message}: {bad[:100]!r}"


def check_member(member: TarMember) -> Iterator[tuple[str, str]]:
    """Rule and message for each other fault of one member of a generated package."""
    name = member.name
    if _SPLIT.match(name):
        yield "startup", "takes the place of a part of the standard library that is not always installed"
    if _BYTECODE.fullmatch(name):
        yield "startup", "is byte code, which Python may take for that of another package"
    if member.kind != "dir" and _RTUPDATE.fullmatch(name):
        yield "startup", "changes how Python packages are built or upgraded"
    place, _, last = name.rpartition("/")
    if place in ("usr/bin", "usr/games") and (last in _COMMANDS.split() or _INTERPRETER.fullmatch(last)):
        yield "command", "is the name of a command of the system"
    if member.kind == "dir":
        return  # dpkg leaves a directory that is there as it is
    parts = name.split("/")
    if parts[:2] == ["usr", "share"] and len(parts) > 3 and parts[2] in _SHARED.split() and not _is_listed_share(name):
        yield "layout", f"lies in a directory that the system acts on: /usr/share/{parts[2]}"
    if parts[0] == "etc" and len(parts) > 2 and not _JUPYTER.fullmatch(name) and _is_systems(parts[1]):
        yield "layout", f"lies in a directory that the system acts on: /etc/{parts[1]}"


def _is_systems(directory: str) -> bool:
    return "." in directory or directory in _SHARED.split() or directory in _CONFIGURATION.split()


def _pth_lines(member: TarMember) -> list[str] | None:
    """The lines of a .pth file that are no comments; None for one that cannot be judged."""
    if member.kind != "file" or member.data is None:
        return None
    lines = member.data.decode("utf-8", "replace").splitlines()
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]


def _bad_line(member: TarMember, site: str, directories: set[str]) -> str | None:
    """The first line that does anything but name a directory in which the package has files; None when there is none."""
    lines = _pth_lines(member)
    if lines is None:
        return "it is a link, or too long"
    # Not just any name: it may be an archive with modules, a link, or a directory of another package.
    return next((line for line in lines if not _PATH_LINE.fullmatch(line) or f"{site}/{line}" not in directories), None)


#: Below shared directories, what the layout allows by its own patterns.
_LISTED = re.compile(
    r"usr/share/(?:doc/|man/|python3/|lintian/overrides/|jupyter/|info/[^/]+\.info[^/]*$|locale/|icons/|pixmaps/|applications/[^/]+\.desktop$"
    r"|metainfo/|mime/packages/|bash-completion/completions/|zsh/vendor-completions/|zsh/site-functions/|fish/vendor_completions\.d/"
    r"|fish/completions/).*"
)
#: How an extension switches itself on in Jupyter's programs: data, no code of Jupyter's own configuration files.
JUPYTER = r"etc/jupyter/(?:[a-z_]+/)?[a-z_]+\.d/[^/]+\.json"
_JUPYTER = re.compile(JUPYTER)


def _is_listed_share(name: str) -> bool:
    return _LISTED.match(name) is not None


def completed_command(path: str) -> str | None:
    """The command that a completion of a shell is for: it runs in the shell of whoever types that command."""
    place, _, name = path.rpartition("/")
    if place == "usr/share/bash-completion/completions":
        return name.removeprefix("_").removesuffix(".bash")
    if place in ("usr/share/zsh/vendor-completions", "usr/share/zsh/site-functions"):
        return name.removeprefix("_")
    if place in ("usr/share/fish/vendor_completions.d", "usr/share/fish/completions"):
        return name.removesuffix(".fish")
    return None


def check_completions(members: Sequence[TarMember]) -> Iterator[TarMember]:
    """Completions for none of the package's own commands.

    What is called like one with something after it, bash and fish do not load. zsh takes commands from files' first lines.
    """
    places = ("usr/bin", "usr/games")
    commands = {name for place, _, name in (member.name.rpartition("/") for member in members) if place in places}
    of_zsh = commands.difference(_ZSH_FUNCTIONS.split())
    for member in members:
        command = completed_command(member.name) if member.kind != "dir" else None
        if command is None:
            continue
        if member.name.startswith("usr/share/zsh/"):
            if command not in of_zsh or not _completes_only(member, of_zsh):
                yield member
        elif command not in commands:
            stems = (command[:at] for at, letter in enumerate(command) if letter in ".-_")
            if not commands.intersection(stems):
                yield member


def _completes_only(member: TarMember, commands: set[str]) -> bool:
    """Whether a completion of zsh says in its first line (zshcompsys(1)) that it is for these commands: no option, pattern or
    context is called like one."""
    if member.kind != "file" or member.data is None:
        return False
    tag, *completed = re.split("[ \t]+", member.data.partition(b"\n")[0].decode("utf-8", "replace").rstrip(" \t"))
    return tag == "#compdef" and completed != [] and commands.issuperset(completed)


def is_plain_share(name: str) -> bool:
    """Whether a file lies below /usr/share or /etc in a directory that one package has for itself, as a rule."""
    if name.startswith("etc/"):
        return _JUPYTER.fullmatch(name) is None
    return name.startswith("usr/share/") and name.count("/") > 2 and not _is_listed_share(name)
