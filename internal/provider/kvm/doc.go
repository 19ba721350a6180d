// Package kvm runs instances as QEMU processes on this host: one process,
// directory, log and user per instance, and no daemon besides.
//
// # What is where
//
// Under Options.DataDir:
//
//	lock                        held by the one provider that uses the directory
//	accelerator.json            what the probe guest found
//	journal/instances/ID.json   what is known of an instance, or its tombstone
//	journal/volumes/ID.json     likewise of a volume
//	instances/ID/               console.log, console.old, qemu.log, two sockets;
//	                            ram (the guest's memory), state and packed (see Sleep)
//	volumes/ID.raw              sparse ext4 file
//	volumes/ID.overlay          qcow2 over it, while an upgrade has not proven itself
//
// All of it is readable by its owner only: the journal has the guests' secrets.
// QEMU gets every file as an open descriptor and needs no right to any, but for
// kernel, initrd and memory, which it opens again through /proc/self/fd.
//
// # The journal
//
// It is the truth about the power state that is wanted on this host. A file is
// replaced as a whole and synced before a call returns. The intention to start
// stands there before QEMU does: whatever a crash leaves is found again, by PID
// and start time where those were written and by looking through all processes
// where not, and is believed only if the process has the instance's console log
// open. Machines outlive the provider; New adopts them, records those that have
// ended meanwhile, and starts again those that should run (a host that reboots
// brings its own back without anybody asking).
//
// An instance that ends by itself is switched off, in the journal too, and an
// fleet.Exit tells why; nothing here starts it again. Only where the host took
// the machine away (a killed QEMU, a reboot) is it still wanted on.
//
// # Sleep
//
// A guest's memory is a file, ram. To put it to sleep its disks are synced and
// frozen, it is stopped, QEMU writes the state of its devices to another file,
// all of it is synced, and a second QEMU loads it, with a private view of the memory and a
// port that leads nowhere. Then the journal says that it sleeps, which is the commit, and only
// then QEMU is killed. Until then whatever fails, or the end of the caller's
// context, has the guest go on as if nothing had been.
//
// What is saved is good for one wake: the file that stands for it (state, or
// packed) is removed, and that synced, before the guest's next instruction. So after
// a crash it tells who is right. There, no instruction has been run since the commit, and a process
// that is found is ended; gone, the process that is found is the machine.
// A saved memory is best effort: the guest's disks are the truth, and where the memory does
// not fit any more (another QEMU, processor, image, network, volume that was
// written to, arguments, damage), or does not load, the guest is booted and it is said why.
//
// A wake by a visit (Wake) needs no epoch. It is told of until somebody with one
// comes, who is obeyed as ever.
//
// By age and budget a sleeper's memory is packed into one file, and then given up.
// With a key (Options.Seal) it is only ever saved like that, encrypted, and the memory of a
// machine that runs lies in a file system in memory. Without one it is in clear on the disk, with no
// right for anybody but the machine's own user. It takes all of its room when the machine
// boots: a guest that touches a page for which the disk has no room is killed.
//
// # Fencing
//
// Ensure, Power, Delete and the calls about volumes refuse an epoch lower than
// the highest they have seen of that thing, also after its deletion: a tombstone
// keeps it for 30 days. Observe, List and Console are not fenced.
//
// A volume is one instance's while that is on or pending; the file is locked by
// its descriptor besides, so that not even a QEMU or an e2fsck that nobody
// remembers can share it.
//
// # Overlays and clones
//
// Between BeginOverlay and CommitOverlay or DropOverlay, what is written to a
// volume goes to a qcow2 file over it. The journal says whether that file counts:
// begun, committing (the volume alone is nobody's data), committed (it counts no
// more). A machine changes over to the volume only while its guest is paused, and
// the guest goes on only when that is in the journal: so a write is never in the
// volume while the overlay counts. Whoever is killed in between, the next provider
// looks on which of the two the machine is, and goes on from there (settleOverlay).
//
// A clone reads a volume that nobody runs on, under a shared lock of the file, and
// writes to a qcow2 file of its own, new at each start. It gives way to all who
// want the volume: they kill it first (dropClonesOf), and the lock keeps them off
// where that did not work. Its network never meets the instances'.
//
// Which layer lies over which is always said on QEMU's command line: a qcow2 file
// is a guest's work, and names no other file that anybody opens.
//
// # What it must not do
//
// It knows nothing of installations' states and of SQL, and holds no goroutine's
// worth of work for an instance that is off. It never logs a spec.
package kvm
