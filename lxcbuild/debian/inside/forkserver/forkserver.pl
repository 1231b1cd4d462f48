# Every dh_* and dpkg-* command of a build as a fork of a process that has debhelper's and dpkg's modules loaded.
#
#     perl forkserver.pl COMMAND [ARGUMENT]...
#
# runs COMMAND with small stand-ins for those programs first in PATH and ends as it does. A stand-in connects to this server, which
# forks: the child takes over the arguments, environment, directory, umask and standard streams of the stand-in (from /proc) and
# runs the real program's file. Whatever could make a difference (another locale, other options that the modules have read,
# fakeroot, a jobserver, other limits, output to a file) makes the stand-in execute the real program instead. Loading the
# modules takes 50 to 120 ms, in every one of some 25 programs of a small build; a fork takes 2.
#
# The servers are a chain: the first loads what dpkg-buildpackage itself needs and runs COMMAND, while a fork of it loads what the
# next programs need, and so on.
#
# forkserver.py does the same for Python's part of debhelper, and is started from here.
package LxcbuildForkserver;
use strict;
use warnings;
use Socket qw(AF_UNIX SOCK_STREAM SOL_SOCKET pack_sockaddr_un);
use POSIX ();

my $PLACE = '/tmp/lxcbuild-forkserver';
my $PYTHON_SERVER = '/lxcbuild/forkserver.py';
my $SO_PEERCRED = 17;    # asm-generic/socket.h
# Read while the modules are loaded: a program that is to see others must load them itself.
my $DECISIVE = qr/^(?:LD_|PERL|MALLOC_|LANG|LC_|NLSPATH$|TZ|DPKG_|DEB_BUILD_OPTIONS$|DEB_BUILD_PROFILES$|DH_DATAFILES$)/;
my @PYTHON_PROGRAMS = qw(pybuild dh_python3);
# What is not there is no loss. Modules that do something when they are loaded (debhelper's sequences) must not be here.
my @STAGES = (
	{
		name => 'first',
		programs => sub { map { "dpkg-$_" } qw(architecture buildpackage checkbuilddeps parsechangelog) },
		modules => [
			qw(Cwd Digest Errno Fcntl File::Basename File::Copy File::Find File::Path File::Spec File::Temp Getopt::Long IO::File
			  List::Util Time::Local),
			'Dpkg', (map { "Dpkg::$_" } qw(
			  Arch BuildEnv BuildOptions BuildProfiles BuildTypes Changelog::Debian Changelog::Parse Checksums Compression
			  Compression::FileHandle Conf Control Control::Info Deps ErrorHandling File Getopt Gettext IPC OpenPGP
			  OpenPGP::Backend::GnuPG OpenPGP::Backend::SOP OpenPGP::Backend::Sequoia OpenPGP::KeyHandle Package Path Vendor
			  Vendor::Debian Version)),
		],
	},
	{
		name => 'dpkg',
		programs => sub {
			map { "dpkg-$_" } qw(buildflags distaddfile genbuildinfo genchanges gencontrol gensymbols shlibdeps source vendor);
		},
		modules => [
			qw(Digest::MD5 Digest::SHA Encode Text::ParseWords),
			(map { "Dpkg::$_" } qw(
			  BuildFlags BuildInfo Changelog Control::Fields Control::Tests Dist::Files Lock Shlibs Shlibs::Objdump
			  Shlibs::Symbol Shlibs::SymbolFile Source::Archive Source::Format Source::Package Source::Package::V1 Source::Package::V2 Source::Package::V3::Native Source::Package::V3::Quilt Source::Patch
			  Source::Quilt Substvars Vars)),
		],
	},
	{
		name => 'debhelper',
		programs => sub { map { s{.*/}{}r } '/usr/bin/dh', glob '/usr/bin/dh_*' },
		modules => [
			'B',
			(map { "Debian::Debhelper::$_" } qw(
			  Dh_Lib Dh_Getopt Dh_Buildsystems Buildsystem Buildsystem::pybuild Buildsystem::makefile Buildsystem::autoconf
			  DH::SequenceState Sequence SequencerUtil)),
			'File::StripNondeterminism',
		],
	},
);

my $STAND_IN = <<'PERL';
#!/usr/bin/perl
($n) = $0 =~ m{([^/]*)$};
$r = 'no';
if (socket(S, 1, 1, 0) && connect(S, pack('Sa108', 1, 'SOCKET'))) {
	$r = '';
	sysread(S, $r, 16);
}
exec {"/usr/bin/$n"} "/usr/bin/$n", @ARGV or exit 127 if $r =~ /^no/;
if ($r !~ /^\d/) { print STDERR "$n: the server that ran it has died\n"; exit 70 }
kill $r & 127, $$ if $r & 127;
exit $r >> 8;
PERL

my ($own, @standard, %inherited, $limits, $namespaces);    # of this server, to compare with those who ask
my %waiting;        # pid of a program to the connection of its stand-in
my $python = 0;     # pid of Python's server
my $next = 0;       # pid of the next server of the chain
my $ends_quickly = 0;    # see the END block
my %judged;         # files of modules whose objects may be left as they are
# Classes whose objects may be left as they are. Of File::Temp those are not objects but names, removed by an END block of its own.
my %HARMLESS = map { $_ => 1 } qw(Class::Struct Config Data::Dumper Digest::MD5 Digest::SHA Dpkg::Control::HashCore Encode::Encoding
  File::Temp IO::Dir IO::Handle SelectSaver);

sub main_loop {
	my @command = @_;
	my @servers = prepare() or fall_back(@command);
	$ENV{PATH} = "$PLACE/perl:$PLACE/python:" . ($ENV{PATH} // '/usr/bin:/bin');
	remember();
	my $stage = shift @STAGES;
	load($stage);
	notice_temporary_files();
	while (@STAGES and defined($next = fork()) and !$next) {
		close shift @servers;
		($stage, $python) = (shift @STAGES, 0);
		load($stage);
	}
	my $server = shift @servers;
	$next //= 0;
	@servers = ();    # the next one has them; where there is none, nobody answers, and programs run as they are
	$SIG{TERM} = \&end_others;
	$SIG{CHLD} = sub { };    # it ends the wait below
	$SIG{PIPE} = 'IGNORE';
	my $driver = 0;
	if ($stage->{name} eq 'first' and !($driver = fork())) {    # the command itself, or all of it where no process can be had
		@SIG{qw(CHLD PIPE TERM)} = ('DEFAULT') x 3;
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	while (1) {
		reap($driver);
		my $ready = '';
		vec($ready, fileno($_), 1) = 1 for $server, values %waiting;
		# Perl runs handlers between its own operations only: a signal that arrives just before the wait does not end it.
		next if select($ready, undef, undef, 0.1) <= 0;
		for my $pid (keys %waiting) {
			next if !defined fileno($waiting{$pid}) or !vec($ready, fileno($waiting{$pid}), 1);
			kill 'TERM', $pid;    # who asked has died, of timeout(1) perhaps
			close delete $waiting{$pid};
		}
		serve($server) if vec($ready, fileno($server), 1);
	}
}

sub fall_back {
	my @command = @_;
	exec { $command[0] } @command or POSIX::_exit(127);
}

sub end_others {
	kill 'TERM', grep { $_ } $python, $next;
	POSIX::_exit(0);
}

# Make the stand-ins and a socket for each stage, and start Python's server. Nothing where that cannot be.
sub prepare {
	mkdir $PLACE, 0755 or return;
	start_python() if -x '/usr/bin/pybuild' and -e $PYTHON_SERVER;
	mkdir "$PLACE/perl", 0755 or return;
	my @servers;
	for my $stage (@STAGES) {
		my $socket = "$PLACE/$stage->{name}.sock";
		for my $name ($stage->{programs}->()) {
			my $text = slurp("/usr/bin/$name");
			write_stand_in("$PLACE/perl/$name", $text, $socket) or return if $text =~ m{\A#!\s*/usr/bin/perl};
		}
		socket(my $server, AF_UNIX, SOCK_STREAM, 0) or return;
		bind($server, pack_sockaddr_un($socket)) or return;
		listen($server, 128) or return;
		push @servers, $server;
	}
	return @servers;
}

sub load {
	my ($stage) = @_;
	for my $module (@{ $stage->{modules} }) {
		(my $file = "$module.pm") =~ s{::}{/}g;
		eval { require $file };
	}
	ask_file_less();
	%judged = map { $_ => 1 } grep { !ends_with_effect($_) } keys %INC;
	return;
}

# Objects of File::Temp remove their files when they are freed.
sub notice_temporary_files {
	no strict 'refs';
	no warnings 'redefine';
	for my $make (qw(new newdir)) {
		my $real = File::Temp->can($make) or next;
		*{"File::Temp::$make"} = sub { $ends_quickly = 0; goto &$real };
	}
	return;
}

sub write_stand_in {
	my ($path, $original, $socket) = @_;
	open(my $out, '>', $path) or return;
	# dh reads these comments to see whether a command would do anything.
	print {$out} $STAND_IN =~ s/SOCKET/$socket/r, map { "$_\n" } $original =~ /^(# PROMISE:.*)$/mg;
	chmod 0755, $out;
	return close $out;
}

sub start_python {
	mkdir "$PLACE/python", 0755 or return;
	for my $name (@PYTHON_PROGRAMS) {
		write_stand_in("$PLACE/python/$name", slurp("/usr/bin/$name"), "$PLACE/python.sock") if -x "/usr/bin/$name";
	}
	my $pid = fork() // return;
	$python = $pid;
	return if $pid;
	delete $ENV{PYTHONPATH};
	# The last argument makes room for those of the programs that its forks become, which /proc then shows.
	exec '/usr/bin/python3', $PYTHON_SERVER, $PLACE, '-' x 2000 or POSIX::_exit(127);
}

# dh_strip_nondeterminism starts file(1) for each file of a package, 2 to 10 ms, to find zip files behind a "#!" line. A file that
# does not begin with one cannot be that, and names that mean another question go the old way.
sub ask_file_less {
	no warnings 'redefine';
	my $ask = File::StripNondeterminism->can('_get_file_type') or return;
	*File::StripNondeterminism::_get_file_type = sub ($) {
		my ($path) = @_;
		return $ask->($path) if $path =~ /\.(?:a|cpio|g?mo|gz|dz|jar|war|hpi|apk|sym|png|zip|pk3|epub|whl|xpi|htb|zhfst|par|codadef)$/;
		open(my $file, '<:raw', $path) or return $ask->($path);
		my $start = '';
		read $file, $start, 2;
		return $start eq '#!' ? $ask->($path) : 'no script';
	};
	return;
}

sub remember {
	$own = decisive(%ENV);
	@standard = map { join ':', (stat $_)[0, 1, 6] } *STDIN, *STDOUT, *STDERR;
	%inherited = map { join(':', (stat $_)[0, 1]) => 1 } grep { -p $_ } glob '/proc/self/fd/*';
	$limits = slurp('/proc/self/limits');
	$namespaces = namespaces('/proc/self');
	return;
}

# As one text; dpkg-buildpackage puts build options into another order.
sub decisive {
	my %env = @_;
	$env{DEB_BUILD_OPTIONS} = join ' ', sort split ' ', $env{DEB_BUILD_OPTIONS} if defined $env{DEB_BUILD_OPTIONS};
	return join "\0", map { "$_=$env{$_}" } sort grep { $_ =~ $DECISIVE } keys %env;
}

sub namespaces {
	my ($proc) = @_;
	return join ' ', map { readlink("$proc/$_") // '?' } qw(ns/mnt ns/user ns/net root);
}

sub slurp {
	my ($path) = @_;
	open(my $file, '<:raw', $path) or return '';
	local $/ = undef;
	return <$file> // '';
}

# Tell the stand-ins of programs that have ended; end when the command has.
sub reap {
	my ($driver) = @_;
	while ((my $pid = waitpid(-1, POSIX::WNOHANG())) > 0) {
		my $status = $?;
		if ($pid == $driver) {
			kill 'TERM', grep { $_ } $python, $next;
			POSIX::_exit($status & 127 ? 128 + ($status & 127) : $status >> 8);
		}
		my $connection = delete $waiting{$pid} or next;
		syswrite($connection, "$status\n");
		close $connection;
	}
	return;
}

sub serve {
	my ($server) = @_;
	accept(my $connection, $server) or return;
	my $pid = fork();
	if (!defined $pid) {
		syswrite($connection, "no\n");
	} elsif ($pid) {
		$waiting{$pid} = $connection;
	} else {
		close $_ for $server, values %waiting;
		@SIG{qw(CHLD PIPE TERM)} = ('DEFAULT') x 3;
		my $program = become($connection);
		if (!defined $program) {
			syswrite($connection, "no\n");
			POSIX::_exit(0);
		}
		# The connection stays with the server alone: what the program leaves in the background must not hold it.
		close $connection;
		run($program);
	}
	return;
}

# Turn into who asked, and return the path of the program; undef where a fork of this server would not be the same.
sub become {
	my ($connection) = @_;
	my ($asking) = unpack 'i', getsockopt($connection, SOL_SOCKET, $SO_PEERCRED);
	my $proc = "/proc/$asking";
	my %env = map { my ($name, $value) = split /=/, $_, 2; ($name => $value // '') } split /\0/, slurp("$proc/environ");
	my ($interpreter, @arguments) = split /\0/, slurp("$proc/cmdline") =~ s/\0\z//r, -1;
	return if decisive(%env) ne $own or slurp("$proc/limits") ne $limits or namespaces($proc) ne $namespaces;
	my @streams = streams($proc) or return;
	chdir "$proc/cwd" or return;
	my ($umask) = slurp("$proc/status") =~ /^Umask:\s*([0-7]+)/m or return;
	umask oct $umask;
	defined $streams[$_] and POSIX::dup2(fileno($streams[$_]), $_) for 0 .. 2;
	my $name = (shift(@arguments) // return) =~ s{.*/}{}r;
	%ENV = %env;
	@ARGV = @arguments;
	return "/usr/bin/$name";
}

# The standard streams of who asked: three values, undef for the same as ours; nothing if one cannot be had.
sub streams {
	my ($proc) = @_;
	my @streams = (undef) x 3;
	opendir(my $open, "$proc/fd") or return;
	for my $fd (grep { /^\d+$/ } readdir $open) {
		my @stat = stat "$proc/fd/$fd" or return;
		if ($fd > 2) {    # make's jobserver, or a pipe that the program is to use
			return if -p _ and !$inherited{join ':', @stat[0, 1]};
		} elsif (join(':', @stat[0, 1, 6]) ne $standard[$fd]) {
			return if !(-p _ or -c _);    # a file opened anew would begin at its beginning
			sysopen($streams[$fd], "$proc/fd/$fd", $fd ? POSIX::O_WRONLY() : POSIX::O_RDONLY()) or return;
		}
	}
	return @streams;
}

sub run {
	my ($program) = @_;
	my $text = slurp($program);
	$ends_quickly = $text !~ /\bDESTROY\b/;
	$0 = $program;
	$^T = time;
	$^W = 1 if $text =~ /\A#![^\n]* -w/;
	no warnings 'once';
	$Dpkg::PROGNAME = $Debian::Debhelper::Dh_Lib::TOOL_NAME = $program =~ s{.*/}{}r;
	($!, $?, $@) = (0, 0, '');
	package main;
	do $program;
	if ($@ ne '') {    # perldoc -f die
		my $status = $!+0 || $? >> 8 || 255;
		print STDERR $@;
		exit $status;
	}
	exit 0;
}

# Before a program ends Perl frees all that it has, and a fork would copy all of it for that: 8 ms, a third of what such a program
# takes. So it ends at once, after its own END blocks (this one, compiled first, runs last), wherever nothing can hang on the freeing:
# no child that is waited for when its pipe is closed, no object whose end means something beyond this process.
END {
	if ($ends_quickly) {
		my $status = $?;
		if (waitpid(-1, POSIX::WNOHANG()) == -1 and STDOUT->flush and !grep { !$judged{$_} && ends_with_effect($_) } keys %INC) {
			no warnings 'exec';
			exec { "$PLACE/nothing" } 'nothing';    # it fails; Perl has flushed all files before (perldoc -f exec)
			POSIX::_exit($status);
		}
		$? = $status;
	}
}

sub ends_with_effect {
	my ($file) = @_;
	my $class = $file =~ s{\.pm$}{}r =~ s{/}{::}gr;
	return defined &{"${class}::DESTROY"} && !$HARMLESS{$class};
}

main_loop(@ARGV);
