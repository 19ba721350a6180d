package kvm

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestProbeAccelBootsAGuest(t *testing.T) {
	t.Parallel()
	qemu, err := exec.LookPath(DefaultQEMU)
	require.NoError(t, err, "apt-get install qemu-system-x86")
	accel, detail, err := ProbeAccel(t.Context(), qemu)
	require.NoError(t, err)
	t.Log(accel, detail)
	require.Contains(t, []string{AccelKVM, AccelTCG}, accel)
	require.Contains(t, detail, "a probe guest ran in "+accel)

	detail, err = probeGuest(t.Context(), qemu, AccelTCG, 0)
	require.NoError(t, err, "emulation works everywhere")
	t.Log(detail)
}

func TestProbeNotices(t *testing.T) {
	t.Parallel()
	t.Run("AGuestThatHangs", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := probeGuest(ctx, fakeQEMU(t), AccelTCG, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("NoQEMU", func(t *testing.T) {
		t.Parallel()
		_, _, err := ProbeAccel(t.Context(), filepath.Join(t.TempDir(), "absent"))
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	})
}

func TestAcceleratorIsRemembered(t *testing.T) {
	t.Parallel()
	qemu, cache := fakeQEMU(t), filepath.Join(t.TempDir(), "accelerator.json")
	first, err := newAccelerator(AccelTCG, qemu, cache, 0, logrus.New()).get(t.Context())
	require.NoError(t, err)
	require.Equal(t, AccelTCG, first.Accel)
	require.Equal(t, pinnedMachine, first.Machine)

	again := newAccelerator(AccelTCG, qemu, cache, 0, logrus.New())
	_, ok := again.load(first.Key)
	require.True(t, ok)
	_, ok = again.load(first.Key + "other kernel")
	require.False(t, ok, "an answer for another host is not taken")
	second, err := again.get(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, second)
}
