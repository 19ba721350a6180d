// Package scripts only holds the test of the scripts beside it.
package scripts

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSetup(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("sh", "setup_test.sh").CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err, "sh scripts/setup_test.sh shows the same")
}
