#!/bin/sh
# The made-up machine of setup_test.sh, which reads this file: functions that
# fake apt-get, sudo, curl, go and the machine's files in the directory $w.
# Not to be run.
# shellcheck disable=SC2154 # top and scripts are setup_test.sh's

# program PATH: makes one of standard input.
program() {
	mkdir -p "${1%/*}"
	{ printf '#!/bin/sh\n' && cat; } >"$1"
	chmod +x "$1"
}

# machine makes a fresh Debian with nothing of what is needed but Go.
machine() {
	w=$top/$((n += 1))
	mkdir -p "$w/tree/scripts" "$w/bin" "$w/sys/etc" "$w/sys/var/lib/apt/lists" "$w/sys/usr/sbin"
	cp "$scripts/setup.sh" "$scripts/fetch-go.sh" "$w/tree/scripts/"
	printf 'module m\n\ngo 1.26.0\n' >"$w/tree/go.mod"
	: >"$w/log"
	: >"$w/sys/var/lib/apt/lists/x_Packages"
	for real in sh cat sed grep mkdir mktemp mv cp rm chmod touch dirname basename readlink find tar gzip sha256sum; do
		ln -s "$(command -v "$real")" "$w/bin/$real"
	done
	user 0
	golang 1.26.3 local
	echo 15+248 >"$w/postgresql.candidate"
	echo 1:7.2+dfsg-7 >"$w/qemu-system-x86.candidate"
	program "$w/bin/uname" <<-'TXT'
		echo x86_64
	TXT
	program "$w/tree/scripts/fetch-kernel.sh" <<-TXT
		echo fetch-kernel >>'$w/log'
		if [ -e '$w/no-kernel' ]; then exit 1; fi
		mkdir -p "\$1"; : >"\$1/linux-image-1.deb"
		echo "\$1/linux-image-1.deb"
	TXT
	program "$w/tree/scripts/fetch-efi-stub.sh" <<-TXT
		if [ -e '$w/no-stub' ]; then exit 1; fi
		mkdir -p "\$1"; echo stub >"\$1/linuxx64.efi.stub"
	TXT
	program "$w/bin/apt-cache" <<-TXT
		[ "\$1" = policy ] && printf '%s:\n  Candidate: %s\n' "\$2" "\$(cat '$w/'"\$2.candidate")"
	TXT
	program "$w/bin/apt-get" <<-TXT
		W='$w' S='$w/sys' B='$w/bin'
	TXT
	# As Debian's packages behave: see configure_version of postgresql-common.
	cat >>"$w/bin/apt-get" <<-'TXT'
		while [ $# -gt 0 ]; do
			case $1 in -o) shift ;; -*) ;; *) break ;; esac
			shift
		done
		line=$1
		for word; do
			case $word in -* | install | update) ;; *) line="$line $word" ;; esac
		done
		echo "$line" >>"$W/log"
		case " $* " in " install "*" --no-remove "*) ;; " install "*) exit 99 ;; esac
		if [ -e "$W/broken-once" ] && [ "$1" = install ]; then rm "$W/broken-once"; exit 100; fi
		if [ "$1" = update ]; then : >"$S/var/lib/apt/lists/x_Packages"; rm -f "$W/no-kernel"; exit 0; fi
		exe() { mkdir -p "${1%/*}"; printf '#!/bin/sh\necho "%s"\n' "${2:-}" >"$1"; chmod +x "$1"; }
		conf=$S/etc/postgresql-common/createcluster.conf
		start() {
			if [ -x "$S/usr/sbin/policy-rc.d" ]; then
				"$S/usr/sbin/policy-rc.d" ssh start || echo "ssh was denied" >>"$W/log"
				"$S/usr/sbin/policy-rc.d" postgresql start || return 0
			fi
			echo "started clusters" >>"$W/log"
		}
		for p; do
			case $p in
			qemu-system-x86) exe "$B/qemu-system-x86_64" "QEMU emulator version 7.2.1 (x)" ;;
			qemu-utils) exe "$B/qemu-img" ;;
			squashfs-tools) exe "$B/mksquashfs"; exe "$B/unsquashfs" ;;
			e2fsprogs) for c in mkfs.ext4 e2fsck resize2fs; do exe "$S/usr/sbin/$c"; done ;;
			iproute2) exe "$B/ip" ;;
			curl) exe "$B/curl" ;;
			mosquitto-clients) exe "$B/mosquitto_pub"; exe "$B/mosquitto_sub" ;;
			redis-tools) exe "$B/redis-cli" ;;
			shellcheck) exe "$B/shellcheck" ;;
			dosfstools) exe "$S/usr/sbin/fsck.fat" ;;
			mtools) for c in mcopy mdir minfo; do exe "$B/$c"; done ;;
			fdisk) exe "$S/usr/sbin/sfdisk" ;;
			ovmf) mkdir -p "$S/usr/share/ovmf"; echo x >"$S/usr/share/ovmf/OVMF.fd" ;;
			ca-certificates) mkdir -p "$S/etc/ssl/certs"; echo x >"$S/etc/ssl/certs/ca-certificates.crt" ;;
			postgresql-common)
				mkdir -p "${conf%/*}"
				[ -e "$conf" ] || echo "#create_main_cluster = true" >"$conf"
				start ;;
			postgresql-*)
				v=${p#postgresql-}
				if [ -e "$W/broken-server" ]; then exit 100; fi
				exe "$S/usr/lib/postgresql/$v/bin/initdb"
				exe "$S/usr/lib/postgresql/$v/bin/postgres" "postgres (PostgreSQL) $v.2"
				sed -n 's/^create_main_cluster *= *\([a-z]*\).*/\1/p' "$conf" | tail -n 1 | grep -qx false || mkdir -p "$S/etc/postgresql/$v/main"
				start ;;
			esac
		done
	TXT
	ln -s "$(command -v tail)" "$w/bin/tail"
}

user() {
	program "$w/bin/id" <<-TXT
		echo $1
	TXT
}

# sudo_works: as sudo does, becoming root.
sudo_works() {
	user 1000
	program "$w/bin/sudo" <<-TXT
		echo "sudo \$*" >>'$w/log'
		[ "\$1" != -n ] || shift
		mv '$w/bin/id' '$w/bin/id.user'
		printf '#!/bin/sh\necho 0\n' >'$w/bin/id'
		chmod +x '$w/bin/id'
		"\$@"
		code=\$?
		mv '$w/bin/id.user' '$w/bin/id'
		exit \$code
	TXT
}

golang() {
	program "$w/bin/go" <<-TXT
		printf 'go$1\n$2\n'
	TXT
}

# go_archive VERSION CHECKSUM: what curl gets; CHECKSUM right is its own.
go_archive() {
	mkdir -p "$w/served/go/bin"
	printf '#!/bin/sh\nprintf "go%s\\nlocal\\n"\n' "$1" >"$w/served/go/bin/go"
	chmod +x "$w/served/go/bin/go"
	tar -C "$w/served" -czf "$w/served/archive" go
	sum=$2
	if [ "$sum" = right ]; then sum=$(sha256sum <"$w/served/archive" | cut -d' ' -f1); fi
	printf '%s' "$sum" >"$w/served/sum"
	program "$w/bin/curl" <<-TXT
		while [ \$# -gt 1 ]; do
			case \$1 in -o) out=\$2; shift ;; esac
			shift
		done
		echo "curl \$1" >>'$w/log'
		if [ -e '$w/offline' ]; then exit 6; fi
		case \$1 in *.sha256) cat '$w/served/sum' ;; *) cat '$w/served/archive' ;; esac >"\$out"
	TXT
}
