// Command init is process 1 of linux guests: it is run from an initrd, brings up
// what one program needs, runs that program and powers the machine off after it.
//
// # What it does, in order
//
//   - mounts /proc, /sys and /dev, loads the modules that /modules/order lists;
//   - opens the guest channel (package guest) and says hello;
//   - finds its disks by serial number, reads the configuration, mounts the root
//     (squashfs, read-only) and the volume (ext4);
//   - makes the root usable, see below, and moves into it; the files of the
//     initrd are removed, which gives their memory back;
//   - sets host name, addresses and routes;
//   - starts the program, and reports it ready when it listens on its ports;
//   - restarts it as the configuration says, answers the host, forwards signals
//     to the program and reaps what it leaves behind;
//   - at the end stops everything, syncs, makes the volume read-only, and powers off.
//
// # Booted by itself
//
// Where the kernel's command line says so (guest.CmdlineDisk), no host of ours is
// there: the guest booted from a disk in a cloud. Then drivers for the machines there are
// loaded as well; root, configuration and volume are GPT partitions, found by name; there is no
// guest channel; and the address comes by DHCP, for which the program is held up
// a minute at most. The machine's power button shuts the guest down as the verb
// shutdown does. All else is the same.
//
// # The root
//
// The root stays read-only. It must have the directories /dev, /proc and /sys.
// Writable are:
//
//   - the paths in Config.Persist, which must exist as directories: each lies on
//     the volume under persist/, by its escaped name, and is filled from the
//     image (contents, modes, owners, links) when it is first used. The copy is
//     made under another name, synced and renamed, so that a cut leaves nothing or all of it;
//   - /tmp, /var/tmp, /run, /var/run, /var/lock, /var/log and /var/cache where they
//     are directories (not links) and not persistent: one tmpfs for all, at most half of the memory,
//     each filled from the image first;
//   - /dev/shm (tmpfs) and /dev/pts.
//
// /etc/hostname, /etc/hosts and /etc/resolv.conf are bind mounts of generated
// files over the image's. Where the image lacks one, or has a link in its place, all of /etc is
// copied to the tmpfs if it is at most 8 MiB.
//
// # The program
//
// It runs in a session of its own as Config.User, which the image's /etc/passwd and
// /etc/group know or which is a number, else as root. A user has low ports, the
// console, the persistent directories and what the image has in the writable
// places; what on the volume was root's or another release's user's becomes
// theirs. The program gets the configuration's environment
// (PATH and HOME are given where it sets none), standard input from /dev/null and
// output to the console. When it ends, whatever else it started is killed.
//
// # Failure
//
// What goes wrong before the program runs is told on the console and the channel
// as an EventGone with reason failed and the cause in words, then the machine powers off;
// so are a panic of init itself and a program that can't be executed. A host that
// is not connected, or does not read, never holds the guest up: messages to it
// are queued up to a bound, the oldest dropped.
//
// init imports the standard library and package guest only: it is linked into
// every image.
package main
