package ramfile_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/provider/kvm/ramfile"
)

// ramVariable names a guest's memory to measure with; else one is made up.
const ramVariable = "DORMOUSE_RAM_FILE"

// cpu returns the processor time of this process and the children it has waited for, in seconds.
func cpu(b *testing.B) float64 {
	total := 0.0
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		require.NoError(b, unix.Getrusage(who, &u))
		for _, t := range []unix.Timeval{u.Utime, u.Stime} {
			total += float64(t.Sec) + float64(t.Usec)/1e6
		}
	}
	return total
}

func measure(b *testing.B, run func()) {
	run()
	before := cpu(b)
	for b.Loop() {
		run()
	}
	b.ReportMetric((cpu(b)-before)*1000/float64(b.N), "cpu-ms/op")
}

func benchmarkMemory(b *testing.B) *os.File {
	if path := os.Getenv(ramVariable); path != "" {
		f, err := os.Open(path)
		require.NoError(b, err)
		b.Cleanup(func() { f.Close() })
		return f
	}
	return memory(b, 128*mib)
}

// BenchmarkMemory compares with the zstd command, which is asked for no sum either.
func BenchmarkMemory(b *testing.B) {
	ram, st, dst := benchmarkMemory(b), state(b, 400_000), create(b, "packed")
	outRAM, outState := create(b, "ram"), create(b, "state")
	for _, c := range []struct {
		name string
		o    ramfile.Options
	}{
		{"Plain", ramfile.Options{}}, {"Encrypted", ramfile.Options{Key: key(b)}}, {"OneWorker", ramfile.Options{Parallel: 1}},
		{"Level2", ramfile.Options{Level: 2}},
	} {
		b.Run("Pack"+c.name, func(b *testing.B) {
			var info ramfile.Info
			measure(b, func() {
				var err error
				info, err = ramfile.Pack(b.Context(), dst, ram, st, c.o)
				require.NoError(b, err)
			})
			b.ReportMetric(float64(info.Packed)/1e6, "MB")
		})
		b.Run("Unpack"+c.name, func(b *testing.B) {
			measure(b, func() {
				_, err := ramfile.Unpack(b.Context(), dst, outRAM, outState, limits(c.o))
				require.NoError(b, err)
			})
		})
	}
	if _, err := exec.LookPath("zstd"); err != nil {
		b.Skip("the zstd command is not installed: apt-get install zstd")
	}
	path := b.TempDir() + "/ram.zst"
	for name, arguments := range map[string][]string{"1Thread": {"-T1"}, "AllCores": {"-T0"}} {
		b.Run("ZstdPack"+name, func(b *testing.B) {
			measure(b, func() {
				zstd(b, append(arguments, "-1", "-q", "-f", "--no-check", ram.Name(), "-o", path)...)
			})
			info, err := os.Stat(path)
			require.NoError(b, err)
			b.ReportMetric(float64(info.Size())/1e6, "MB")
		})
	}
	b.Run("ZstdUnpack", func(b *testing.B) {
		measure(b, func() { zstd(b, "-d", "-q", "-f", path, "-o", outRAM.Name()) })
	})
}

func zstd(b *testing.B, arguments ...string) {
	out, err := exec.Command("zstd", arguments...).CombinedOutput()
	require.NoError(b, err, "%s", out)
}
