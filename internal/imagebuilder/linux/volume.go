package linux

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/gpt"
)

// formatVolume makes an ext4 file system in a partition, which is all zeros. mkfs.ext4
// takes what it would draw by lot or read from the clock from the partition's identifier and from nowhere.
func formatVolume(ctx context.Context, disk *os.File, p gpt.Partition) error {
	tool, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		// An ordinary user's PATH has no sbin.
		if tool = "/usr/sbin/mkfs.ext4"; !isExecutable(tool) {
			return fleet.Errorf(fleet.KindUnavailable, "finding mkfs.ext4, which `apt-get install e2fsprogs` brings: %w", err)
		}
	}
	const block = 4096
	cmd := exec.CommandContext(ctx, tool, "-q", "-F", "-b", strconv.Itoa(block), "-I", "256", "-m", "0", "-L", "dm-volume", "-U", p.ID.String(),
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard", p.Offset, p.ID),
		"/proc/self/fd/3", strconv.FormatInt(p.Size/block, 10))
	// A configuration that is not there: the features are mkfs.ext4's own defaults, not this machine's.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC", "E2FSPROGS_FAKE_TIME=1", "MKE2FS_CONFIG=/usr/share/dormouse/none"}
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{disk}
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		return toolError(ctx, tool, err, nil, said.String())
	}
	return nil
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
