package api

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gorilla/mux"
	"github.com/stretchr/testify/require"

	openapi "dormouse/api"
	"dormouse/client"
	"dormouse/internal/fleet"
)

var update = flag.Bool("update", false, "write the generated block of ARCHITECTURE.md")

func testServer(t *testing.T) *server {
	t.Helper()
	h := newHarness(t)
	s, err := newServer(Options{
		Store: h.store, Packages: h.packages, Images: h.images, ImageContents: h.images, Kernels: h.images, Tracer: h.images, Consoles: h.consoles, Watch: h.watch, Seal: h.seal, Planner: fakePlanner{}, Schedules: fakeSchedules{},
		GatewayURL: func(name string) string { return "http://" + name + ".localhost:8065" }, Log: newLog(),
	})
	require.NoError(t, err)
	return s
}

// inRouter lists "METHOD path" of everything that a router answers.
func inRouter(t *testing.T, r *mux.Router) []string {
	t.Helper()
	var all []string
	require.NoError(t, r.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := route.GetMethods()
		for _, m := range methods {
			all = append(all, m+" "+path)
		}
		return err
	}))
	return all
}

func inDocument(doc *openapi3.T) []string {
	var all []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			all = append(all, method+" "+path)
		}
	}
	return all
}

// differences says what only one of the two lists has.
func differences(router, document []string) []string {
	var all []string
	for _, r := range router {
		if !slices.Contains(document, r) {
			all = append(all, r+" is not in the document")
		}
	}
	for _, d := range document {
		if !slices.Contains(router, d) {
			all = append(all, d+" is not in the router")
		}
	}
	return all
}

func TestDocumentIsValid(t *testing.T) {
	t.Parallel()
	doc := loadDocument(t)
	require.NoError(t, doc.Validate(context.Background()))
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			where := method + " " + path
			require.NotEmpty(t, op.Summary, where)
			require.NotEmpty(t, op.OperationID, where)
			require.NotNil(t, op.Responses.Default(), where)
			keyed := slices.ContainsFunc(op.Parameters, func(p *openapi3.ParameterRef) bool { return p.Value.Name == "Idempotency-Key" })
			require.Equal(t, method != "GET", keyed, "%s: Idempotency-Key belongs to every change", where)
		}
	}
}

func TestRouterAndDocumentAgree(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	r, err := s.router(s.routes())
	require.NoError(t, err)
	require.Empty(t, differences(inRouter(t, r), inDocument(loadDocument(t))))
}

// Both failures that TestRouterAndDocumentAgree is for are provoked.
func TestRouterAndDocumentDisagree(t *testing.T) {
	t.Parallel()
	s := testServer(t)
	r, err := s.router(append(s.routes(), route{method: "POST", path: "/api/v1/made-up", handle: noRoute}))
	require.NoError(t, err)
	doc := loadDocument(t)
	require.Equal(t, []string{"POST /api/v1/made-up is not in the document"}, differences(inRouter(t, r), inDocument(doc)))

	r, err = s.router(s.routes())
	require.NoError(t, err)
	doc.Paths.Value("/healthz").Put = &openapi3.Operation{}
	require.Equal(t, []string{"PUT /healthz is not in the router"}, differences(inRouter(t, r), inDocument(doc)))
}

// The query parameters of each route are those of the document.
func TestQueryParametersAgree(t *testing.T) {
	t.Parallel()
	doc := loadDocument(t)
	for _, rt := range testServer(t).routes() {
		var documented []string
		for _, p := range doc.Paths.Value(rt.path).GetOperation(rt.method).Parameters {
			if p.Value.In == "query" {
				documented = append(documented, p.Value.Name)
			}
		}
		require.ElementsMatch(t, rt.query, documented, "%s %s", rt.method, rt.path)
	}
}

// schemaDifferences compares a struct's JSON fields with a schema's properties.
// In answers a property is required where the field is always encoded.
func schemaDifferences(v any, schema *openapi3.Schema, answer bool) []string {
	var all []string
	fields := map[string]bool{}
	for _, field := range reflect.VisibleFields(reflect.TypeOf(v)) {
		if field.Anonymous {
			continue // its own fields are there too
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		fields[name] = true
		always := !strings.Contains(options, "omit")
		property := schema.Properties[name]
		if property == nil {
			all = append(all, name+" is not in the schema")
			continue
		}
		if answer && always != slices.Contains(schema.Required, name) {
			all = append(all, fmt.Sprintf("%s is always encoded: %v, but required: %v", name, always, !always))
		}
		if want := jsonType(field.Type); !property.Value.Type.Is(want) && len(property.Value.AllOf) == 0 {
			all = append(all, fmt.Sprintf("%s is a %s, not a %v", name, want, property.Value.Type))
		}
	}
	for name := range schema.Properties {
		if !fields[name] {
			all = append(all, name+" is not in the struct")
		}
	}
	return all
}

func jsonType(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.String() == "time.Time" {
		return "string"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice:
		return "array"
	case reflect.Map, reflect.Struct:
		return "object"
	}
	return "string"
}

func wireTypes() map[string]any {
	return map[string]any{
		"Installation": client.Installation{}, "Endpoint": client.Endpoint{}, "Instance": client.Instance{}, "Exit": client.Exit{},
		"CreateInstallation": client.CreateInstallation{}, "UpdateInstallation": client.UpdateInstallation{},
		"Operation": client.Operation{}, "StepDone": client.StepDone{}, "Explanation": client.Explanation{},
		"Cluster": client.Cluster{}, "Check": client.Check{}, "Host": client.Host{}, "HostPage": client.Page[client.Host]{},
		"Drain": client.Drain{}, "DrainMember": client.DrainMember{}, "DrainHost": client.DrainHost{}, "CreateCluster": client.CreateCluster{}, "CheckCluster": client.CheckCluster{},
		"IdlePolicy": client.IdlePolicy{}, "Schedule": client.Schedule{}, "WakeRules": client.WakeRules{}, "UpdateIdlePolicy": client.UpdateIdlePolicy{},
		"UpdateWakeRules": client.UpdateWakeRules{}, "NextSchedule": client.NextSchedule{}, "Saved": client.Saved{}, "Traffic": client.Traffic{},
		"TrafficPage": client.Page[client.Traffic]{}, "HibernateInstallation": client.HibernateInstallation{}, "CloneInstallation": client.CloneInstallation{},
		"Package": client.Package{}, "Problem": client.Problem{}, "Own": client.Own{},
		"Group": client.Group{}, "GroupConfig": client.GroupConfig{}, "RevisionMembers": client.RevisionMembers{},
		"GroupRevision": client.GroupRevision{}, "CreateGroup": client.CreateGroup{}, "UpdateGroup": client.UpdateGroup{},
		"Rollout": client.Rollout{}, "RolloutSummary": client.RolloutSummary{}, "RolloutCounts": client.RolloutCounts{},
		"RingStatus": client.RingStatus{}, "RolloutMember": client.RolloutMember{}, "RolloutSpec": client.RolloutSpec{},
		"RolloutRing": client.RolloutRing{}, "MetricGate": client.MetricGate{}, "CreateRollout": client.CreateRollout{},
		"RolloutPlan": client.RolloutPlan{}, "PlannedRing": client.PlannedRing{},
		"GroupPage": client.Page[client.Group]{}, "GroupRevisionPage": client.Page[client.GroupRevision]{},
		"RolloutPage": client.Page[client.RolloutSummary]{}, "RolloutMemberPage": client.Page[client.RolloutMember]{},
		"InstallationPage": client.Page[client.Installation]{}, "ClusterPage": client.Page[client.Cluster]{},
		"InstanceDetail": client.InstanceDetail{}, "InstancePage": client.Page[client.InstanceDetail]{},
		"TracePackage": client.TracePackage{}, "Trace": client.Trace{},
		"Kernel": client.Kernel{}, "AddKernel": client.AddKernel{}, "KernelPage": client.Page[client.Kernel]{},
		"Image": client.Image{}, "BuildImage": client.BuildImage{}, "ImageFile": client.ImageFile{}, "ImagePage": client.Page[client.Image]{},
		"PackagePage": client.Page[client.Package]{}, "OperationPage": client.Page[client.Operation]{},
	}
}

func TestWireTypesAndSchemasAgree(t *testing.T) {
	t.Parallel()
	doc := loadDocument(t)
	var objects []string
	for name, schema := range doc.Components.Schemas {
		if schema.Value.Type.Is("object") {
			objects = append(objects, name)
		}
	}
	require.ElementsMatch(t, objects, slices.Collect(maps.Keys(wireTypes())))
	for name, v := range wireTypes() {
		answer := !strings.HasPrefix(name, "Create") && !strings.HasPrefix(name, "Update") && name != "DrainHost" && name != "CheckCluster" && name != "HibernateInstallation" && name != "CloneInstallation" && name != "TracePackage"
		require.Empty(t, schemaDifferences(v, doc.Components.Schemas[name].Value, answer), name)
	}
}

func TestWireTypesAndSchemasDisagree(t *testing.T) {
	t.Parallel()
	schema := loadDocument(t).Components.Schemas["Check"].Value
	schema.Properties["made_up"] = schema.Properties["name"]
	schema.Properties["ok"] = schema.Properties["name"]
	delete(schema.Properties, "mend")
	schema.Required = []string{"name", "ok", "detail"}
	require.ElementsMatch(t, []string{
		"made_up is not in the struct", "mend is not in the schema", "ok is a boolean, not a &[string]",
		"detail is always encoded: false, but required: true",
	}, schemaDifferences(client.Check{}, schema, true))
}

func enum(t *testing.T, doc *openapi3.T, name string) []string {
	t.Helper()
	var all []string
	for _, v := range doc.Components.Schemas[name].Value.Enum {
		all = append(all, v.(string))
	}
	return all
}

func TestEnumsAgree(t *testing.T) {
	t.Parallel()
	doc := loadDocument(t)
	var states, clusterStates, kinds []string
	for _, s := range fleet.States() {
		states = append(states, string(s))
	}
	for _, c := range fleet.ClusterTransitions() {
		if !slices.Contains(clusterStates, string(c.To)) {
			clusterStates = append(clusterStates, string(c.To))
		}
	}
	for _, tr := range fleet.Transitions() {
		if tr.By != "" && !slices.Contains(kinds, string(tr.By)) {
			kinds = append(kinds, string(tr.By))
		}
	}
	kinds = append(kinds, string(fleet.OperationCreateCluster), string(fleet.OperationDeleteCluster), string(fleet.OperationCheckCluster),
		string(fleet.OperationVerify), string(fleet.OperationClone), string(fleet.OperationRollout), string(fleet.OperationDrain))
	var rolloutStates, memberStates []string
	for _, s := range fleet.RolloutStates() {
		rolloutStates = append(rolloutStates, string(s))
	}
	for _, s := range fleet.MemberStates() {
		memberStates = append(memberStates, string(s))
	}
	require.ElementsMatch(t, rolloutStates, enum(t, doc, "RolloutState"))
	require.ElementsMatch(t, memberStates, enum(t, doc, "MemberState"))
	require.ElementsMatch(t, []string{string(fleet.UnverifiableKeep), string(fleet.UnverifiableMove)}, enum(t, doc, "Unverifiable"))
	require.ElementsMatch(t, states, enum(t, doc, "InstallationState"))
	require.ElementsMatch(t, clusterStates, enum(t, doc, "ClusterState"))
	require.ElementsMatch(t, kinds, enum(t, doc, "OperationKind"))
}

func TestBoundsAgree(t *testing.T) {
	t.Parallel()
	schemas := loadDocument(t).Components.Schemas
	for name, want := range map[string][3]float64{
		"MemoryMiB": {minMemoryMiB, maxMemoryMiB, defaultMemoryMiB}, "DiskMiB": {minDiskMiB, maxDiskMiB, defaultDiskMiB},
		"VCPUs": {minVCPUs, maxVCPUs, defaultVCPUs},
	} {
		s := schemas[name].Value
		require.Equal(t, want, [3]float64{*s.Min, *s.Max, s.Default.(float64)}, name)
	}
}

func TestDocumentAsJSON(t *testing.T) {
	t.Parallel()
	body, err := openapi.JSON()
	require.NoError(t, err)
	w := newHarness(t).call(t, "GET", "/api/v1/openapi.json", "")
	require.Equal(t, string(body), w.Body.String())
	_, err = openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	require.NoError(t, err)
}

// routesBlock is the table of routes for ARCHITECTURE.md: a row for each path.
func routesBlock(routes []route, doc *openapi3.T) string {
	var b strings.Builder
	b.WriteString("| path | what it does |\n|---|---|\n")
	for i, rt := range routes {
		summary := rt.method + ": "
		if item := doc.Paths.Value(rt.path); item != nil && item.GetOperation(rt.method) != nil { // else the walk says so
			summary += item.GetOperation(rt.method).Summary
		}
		if i > 0 && routes[i-1].path == rt.path {
			fmt.Fprintf(&b, " · %s", summary)
		} else {
			fmt.Fprintf(&b, "| `%s` | %s", rt.path, summary)
		}
		if i == len(routes)-1 || routes[i+1].path != rt.path {
			b.WriteString(" |\n")
		}
	}
	return b.String()
}

// The list of routes in ARCHITECTURE.md is generated; -update writes it.
func TestArchitectureListsRoutes(t *testing.T) {
	t.Parallel()
	const file, begin, end = "../../ARCHITECTURE.md", "<!-- routes -->\n", "<!-- /routes -->"
	text, err := os.ReadFile(file)
	require.NoError(t, err, "write ARCHITECTURE.md with the lines %q and %q in it, then run: go test ./internal/api -run Architecture -update", begin, end)
	want := routesBlock(testServer(t).routes(), loadDocument(t))
	before, rest, ok := strings.Cut(string(text), begin)
	have, after, ok2 := strings.Cut(rest, end)
	require.True(t, ok && ok2, "ARCHITECTURE.md has no block for the routes: put the lines %q and %q where it belongs, then run: go test ./internal/api -run Architecture -update", begin, end)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(before+begin+want+end+after), 0o644))
		return
	}
	require.Equal(t, want, have, "run: go test ./internal/api -run Architecture -update")
}
