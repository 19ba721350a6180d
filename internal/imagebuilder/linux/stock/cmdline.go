package stock

// Cmdline is the kernel command line that a guest boots with.
//
//   - console=ttyS0: the program's output goes to the serial port, which is the
//     instance's console log;
//   - quiet loglevel=1: each line that the kernel writes there costs emulated
//     port accesses; emergencies still come out;
//   - panic=-1: a kernel that panics resets at once, which ends QEMU (-no-reboot);
//   - mitigations=off: one guest holds one tenant's one program, so there is nobody
//     in it to be protected from; the host keeps its own mitigations;
//   - random.trust_cpu=on: the processor's random numbers seed the kernel's;
//   - tsc=reliable no_timer_check: no calibration against clocks that are emulated too;
//   - nokaslr: the kernel is not moved at each boot;
//   - cryptomgr.notests: algorithms are not tested when they are registered.
//
// Together they take an emulated boot of Debian's 6.1 kernel on q35 from 2.33 s to 2.04 s, half
// of which is quiet's. Measured and left out, because they change nothing there:
// rcupdate.rcu_expedited=1, i8042.noaux and its kind, lsm=, audit=0.
const Cmdline = "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check nokaslr cryptomgr.notests"

// DiskCmdline is the kernel command line of a guest that boots from a disk by
// itself, on a machine that may be anybody's; init's guest.CmdlineDisk is added to it.
//
// Of Cmdline it leaves out what trusts the emulated clock and what makes a boot
// under emulation faster only. console= twice: the kernel writes to the screen and to the serial
// port; what init and the program write goes to the last of them that the machine has.
// A kernel that panics has its machine restarted after five seconds, in which the console can be read.
const DiskCmdline = "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=5 mitigations=off random.trust_cpu=on cryptomgr.notests"
