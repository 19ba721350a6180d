package fleet

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the state diagram into ARCHITECTURE.md")

const (
	architecture = "../../ARCHITECTURE.md"
	beginStates  = "<!-- states -->\n"
	endStates    = "<!-- /states -->"
)

// node is a state's name as mermaid takes it.
func node(s State) string {
	if s == stateNone || s == StateDeleted {
		return "[*]"
	}
	return strings.ReplaceAll(string(s), "-", "_")
}

// box is the pair of transient states of one kind of operation.
func box(k OperationKind) string { return string(k) + "_work" }

// diagram draws the table. Each kind's two transient states share a box; a
// line from the box stands for a change out of either. Requests to delete
// would be a line from every state: they are said in words.
func diagram(tb table) string {
	var b strings.Builder
	has := func(from, to State, by OperationKind) bool {
		return slices.Contains(tb.transitions, Transition{From: from, To: to, By: by})
	}
	b.WriteString("```mermaid\nstateDiagram-v2\n")
	for _, k := range InstallationOperations() {
		fmt.Fprintf(&b, "    state \"%s\" as %s {\n        %s --> %s\n    }\n", k, box(k), node(k.RequestedState()), node(k.InProgressState()))
	}
	var never []string
	for _, s := range tb.states {
		if !slices.Contains(tb.accepts[s], OperationDelete) {
			never = append(never, "`"+string(s)+"`")
		}
	}
	for _, tr := range tb.transitions {
		switch {
		case tr.Request && tr.By == OperationDelete:
		case tr.Request:
			fmt.Fprintf(&b, "    %s --> %s\n", node(tr.From), box(tr.By))
		case tr.By == "":
			fmt.Fprintf(&b, "    %s --> %s : observed\n", node(tr.From), node(tr.To))
		case tr.By == OperationMove:
			fmt.Fprintf(&b, "    %s --> %s : moved, and not back\n", node(tr.From), node(tr.To))
		case tr.To == tr.By.InProgressState():
			// drawn in the box
		case has(tr.By.RequestedState(), tr.To, tr.By) && has(tr.By.InProgressState(), tr.To, tr.By):
			if tr.From == tr.By.InProgressState() {
				fmt.Fprintf(&b, "    %s --> %s\n", box(tr.By), node(tr.To))
			}
		default:
			fmt.Fprintf(&b, "    %s --> %s\n", node(tr.From), node(tr.To))
		}
	}
	b.WriteString("```\n\n")
	fmt.Fprintf(&b, "Not drawn: a delete is accepted in every state but %s, and pre-empts what is under way.\n", strings.Join(never, ", "))
	b.WriteString("`go test ./internal/fleet -update` writes this block from the table.\n")
	return b.String()
}

// block cuts the generated block out of the document.
func block(document string) (before, have, after string, ok bool) {
	before, rest, ok := strings.Cut(document, beginStates)
	if !ok {
		return "", "", "", false
	}
	have, after, ok = strings.Cut(rest, endStates)
	return before + beginStates, have, endStates + after, ok
}

func TestArchitectureShowsTheStates(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(architecture)
	require.NoError(t, err)
	before, have, after, ok := block(string(text))
	require.True(t, ok, "%s has lost its markers %s and %s", architecture, strings.TrimSpace(beginStates), endStates)
	want := diagram(current)
	if *update {
		require.NoError(t, os.WriteFile(architecture, []byte(before+want+after), 0o644)) //nolint:gosec // a document for all
		return
	}
	require.Equal(t, want, have, "the diagram is out of date: run `go test ./internal/fleet -update`")
}

// A change of the table must show in the diagram, or comparing them says nothing.
func TestDiagramFollowsTheTable(t *testing.T) {
	t.Parallel()
	for i, tr := range current.transitions {
		if tr.Request && tr.By == OperationDelete || tr.To == tr.By.InProgressState() {
			continue // these are not drawn one by one
		}
		changed := current.clone()
		changed.transitions = slices.Delete(changed.transitions, i, i+1)
		require.NotEqual(t, diagram(current), diagram(changed), "%v is not in the diagram", tr)
	}
	changed := current.clone()
	changed.accepts[StateExited] = nil
	require.NotEqual(t, diagram(current), diagram(changed))
}
