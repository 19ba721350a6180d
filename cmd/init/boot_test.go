package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func webConfig() guest.Config {
	return guest.Config{
		Hostname: "workspace", Program: "/bin/program", Args: []string{"serve"},
		Env: map[string]string{"GREETING": "hello"}, Restart: guest.RestartAlways, Ports: []int{8080},
		Network: guest.Network{
			Address: "10.0.2.15/24", Gateway: "10.0.2.2", MAC: "02:00:00:00:00:02", DNS: []string{"10.0.2.3"},
		},
	}
}

func TestBootServesAndAnswers(t *testing.T) {
	t.Parallel()
	v := boot(t, webConfig(), machineOptions{})
	v.next(guest.EventHello)
	v.next(guest.EventStarted)
	v.next(guest.EventReady)
	code, body := v.get("/")
	require.Equal(t, 200, code)
	require.Equal(t, "hello", body)

	for file, want := range map[string]string{
		"/etc/hostname": "workspace\n", "/proc/sys/kernel/hostname": "workspace\n",
		"/etc/resolv.conf": "nameserver 10.0.2.3\n", "/sys/class/net/eth0/address": "02:00:00:00:00:02\n",
	} {
		_, body := v.get("/read?file=" + file)
		require.Equal(t, want, body, file)
	}
	for file, want := range map[string]int{"/tmp/x": 200, "/run/x": 200, "/var/log/app/x": 200, "/dev/shm/x": 200, "/var/lib/app/x": 403} {
		code, body := v.get("/write?text=x&file=" + file)
		require.Equal(t, want, code, "%s: %s", file, body)
	}

	_, before := v.ask(guest.Command{Verb: guest.VerbPing})
	require.Equal(t, []guest.Event{guest.EventReady}, before)
	for _, verb := range []guest.Verb{guest.VerbSync, guest.VerbFreeze, guest.VerbThaw} {
		v.does(guest.Command{Verb: verb})
	}
	v.does(guest.Command{Verb: guest.VerbReseed, Seed: make([]byte, 32)})
	v.does(guest.Command{Verb: guest.VerbSetClock, Time: time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)})
	_, body = v.get("/time")
	require.Contains(t, body, "2031-05-06T07:08")
	v.does(guest.Command{Verb: guest.VerbWake, Nanos: time.Date(2032, 5, 6, 7, 8, 9, 0, time.UTC).UnixNano(), Seed: make([]byte, 32)})
	_, body = v.get("/time")
	require.Contains(t, body, "2032-05-06T07:08")
	for _, bad := range []guest.Command{{Verb: "dance"}, {Verb: guest.VerbReseed}, {Verb: guest.VerbSetClock}, {Verb: guest.VerbWake}} {
		answer, _ := v.ask(bad)
		require.NotEmpty(t, answer.Error, bad.Verb)
	}

	// A host that goes and comes back finds the guest as it was.
	require.NoError(t, v.conn.Close())
	v.connect()
	_, before = v.ask(guest.Command{Verb: guest.VerbPing})
	require.Contains(t, before, guest.EventReady)

	v.does(guest.Command{Verb: guest.VerbShutdown})
	require.Equal(t, "SIGTERM", v.next(guest.EventExit).Signal)
	require.Equal(t, guest.GoneStopped, v.next(guest.EventGone).Reason)
	require.Equal(t, guest.GoneStopped, v.awaitOff().Reason)
}

func TestBootVolumePersists(t *testing.T) {
	t.Parallel()
	c := webConfig()
	c.Persist = []string{"/var/lib/app"}
	volume := newVolume(t)
	for i, want := range []string{"from the image", "changed"} {
		v := boot(t, c, machineOptions{volume: volume})
		for _, e := range []guest.Event{guest.EventHello, guest.EventStarted, guest.EventReady} {
			v.next(e)
		}
		_, body := v.get("/read?file=/var/lib/app/seed")
		require.Equal(t, want, body)
		_, body = v.get("/stat?file=/var/lib/app/owned")
		require.Equal(t, "600 33 44", body)
		code, _ := v.get("/write?text=changed&file=/var/lib/app/seed")
		require.Equal(t, 200, code)
		v.does(guest.Command{Verb: guest.VerbFreeze})
		v.does(guest.Command{Verb: guest.VerbFreeze})
		if i == 0 {
			v.does(guest.Command{Verb: guest.VerbWake, Nanos: time.Now().UnixNano(), Seed: make([]byte, 32)})
			code, _ = v.get("/write?text=thawed&file=/var/lib/app/thawed")
			require.Equal(t, 200, code)
		} // The second time it is shut down while frozen.
		v.does(guest.Command{Verb: guest.VerbShutdown})
		require.Equal(t, guest.GoneStopped, v.awaitOff().Reason)
		require.NoError(t, command("e2fsck", "-f", "-n", volume), "the volume must be clean")
	}
}

// The program runs as the configuration says, and has what it needs for that; a
// release that runs as somebody else takes the volume over.
func TestBootRunsAsUser(t *testing.T) {
	t.Parallel()
	c := webConfig()
	c.Persist = []string{"/var/lib/app"}
	volume := newVolume(t)
	for _, as := range []struct{ user, who, seed string }{
		{"app", "101 102 [200]/var/lib/app", "640 101 102"},
		{"1234:extra", "1234 200 []/", "640 1234 200"},
	} {
		c.User = as.user
		v := boot(t, c, machineOptions{volume: volume})
		for _, e := range []guest.Event{guest.EventHello, guest.EventStarted, guest.EventReady} {
			v.next(e)
		}
		_, body := v.get("/whoami")
		require.Equal(t, as.who, body)
		_, body = v.get("/stat?file=/var/lib/app/seed")
		require.Equal(t, as.seed, body)
		_, body = v.get("/stat?file=/var/lib/app/owned")
		require.Equal(t, "600 33 44", body, "what is another's in the image stays theirs")
		for file, want := range map[string]int{"/var/lib/app/x": 200, "/var/log/app/x": 200, "/tmp/x": 200, "/dev/stderr": 200, "/run/x": 403} {
			code, body := v.get("/write?text=x&file=" + file)
			require.Equal(t, want, code, "%s: %s", file, body)
		}
		code, body := v.get("/listen?address=:80")
		require.Equal(t, 200, code, body)
		v.does(guest.Command{Verb: guest.VerbShutdown})
		require.Equal(t, guest.GoneStopped, v.awaitOff().Reason)
		require.NoError(t, command("e2fsck", "-f", "-n", volume), "the volume must be clean")
	}
}

func TestBootProgramExitsUnheard(t *testing.T) {
	t.Parallel()
	c := webConfig()
	c.Args, c.Restart = []string{"exit", "3"}, guest.RestartNever
	gone := boot(t, c, machineOptions{deaf: true}).awaitOff()
	require.Equal(t, guest.Message{Event: guest.EventGone, Reason: guest.GoneExited, Code: 3}, gone)
}

func TestBootCrashLoop(t *testing.T) {
	t.Parallel()
	c := webConfig()
	c.Args, c.Restart, c.Ports = []string{"exit", "1"}, guest.RestartOnFailure, nil
	v := boot(t, c, machineOptions{})
	v.next(guest.EventHello)
	for i := range guest.LoopEnds {
		require.Equal(t, i, v.next(guest.EventStarted).Restarts)
		v.next(guest.EventReady)
		require.Equal(t, 1, v.next(guest.EventExit).Code)
	}
	gone := v.next(guest.EventGone)
	require.Equal(t, guest.GoneCrashLoop, gone.Reason)
	require.Equal(t, guest.LoopEnds-1, gone.Restarts)
	require.Equal(t, gone, v.awaitOff())
}

func TestBootProgramRestartsAndIsKilled(t *testing.T) {
	t.Parallel()
	c := webConfig()
	c.Args, c.StopTimeout = []string{"stubborn"}, 300*time.Millisecond
	v := boot(t, c, machineOptions{})
	v.next(guest.EventHello)
	v.next(guest.EventStarted)
	v.next(guest.EventReady)
	_, _, _ = v.tryGet("/exit") // The connection ends with the program.
	require.Equal(t, 7, v.next(guest.EventExit).Code)
	require.Equal(t, 1, v.next(guest.EventStarted).Restarts)
	v.next(guest.EventReady)
	v.does(guest.Command{Verb: guest.VerbShutdown})
	require.Equal(t, "SIGKILL", v.next(guest.EventExit).Signal)
	require.Equal(t, guest.GoneStopped, v.awaitOff().Reason)
}

func TestBootFailures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change  func(*guest.Config)
		options machineOptions
		want    string
	}{
		"NoConfiguration": {nil, machineOptions{config: make([]byte, 4096)}, "wrong magic number"},
		"NoRootDisk":      {nil, machineOptions{noRoot: true}, "no disk with serial number dm-root"},
		"NoProgram":       {func(c *guest.Config) { c.Program = "/bin/none" }, machineOptions{}, "no such file"},
		"WrongMachine":    {func(c *guest.Config) { c.Program = "/bin/foreign" }, machineOptions{}, "another machine (AArch64)"},
		"NoInterpreter":   {func(c *guest.Config) { c.Program = "/bin/script" }, machineOptions{}, "interpreter /bin/gone: there is no such file"},
		"NoUser":          {func(c *guest.Config) { c.User = "stranger" }, machineOptions{}, `/etc/passwd has no user "stranger"`},
		"NoVolume":        {func(c *guest.Config) { c.Persist = []string{"/var/lib/app"} }, machineOptions{}, "no disk with serial number dm-volume"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := webConfig()
			if tc.change != nil {
				tc.change(&c)
			}
			v := boot(t, c, tc.options)
			v.next(guest.EventHello)
			gone := v.next(guest.EventGone)
			require.Equal(t, guest.GoneFailed, gone.Reason)
			require.Contains(t, gone.Error, tc.want)
			require.Equal(t, gone, v.awaitOff())
		})
	}
}

// BenchmarkBoot reports the median time from the start of QEMU to readiness, as
// the channel tells it, and to the first HTTP answer after it.
func BenchmarkBoot(b *testing.B) {
	var ready, answer []time.Duration
	for b.Loop() {
		v := boot(b, webConfig(), machineOptions{})
		v.next(guest.EventHello)
		v.next(guest.EventStarted)
		v.next(guest.EventReady)
		ready = append(ready, time.Since(v.started))
		code, _ := v.get("/")
		require.Equal(b, 200, code)
		answer = append(answer, time.Since(v.started))
		v.does(guest.Command{Verb: guest.VerbShutdown})
		v.awaitOff()
	}
	b.ReportMetric(median(ready).Seconds(), "s/ready")
	b.ReportMetric(median(answer).Seconds(), "s/answer")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
