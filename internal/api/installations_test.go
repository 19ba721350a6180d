package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func TestCreateInstallation(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	w := h.call(t, "POST", "/api/v1/installations", `{"name":"acme","owner":"acme-corp","package":"workspace",
		"memory_mib":256,"env":{"A":"1"},"secrets":{"TOKEN":"hush"},"labels":{"tier":"free"},"when_full":"refuse"}`)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	var in client.Installation
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &in))
	require.Equal(t, "creation-requested", in.State)
	require.Equal(t, "http://acme.localhost:8065", in.URL)
	require.Equal(t, []client.Endpoint{{Port: 8080, Protocol: "http", Name: "web", URL: "http://acme.localhost:8065"}}, in.Endpoints)
	require.Equal(t, []string{"TOKEN"}, in.SecretNames)
	require.Equal(t, "create", in.Operation.Kind)
	require.Equal(t, "/api/v1/operations/"+in.Operation.ID, w.Header().Get("Location"))
	require.Equal(t, `"1"`, w.Header().Get("ETag"))
	require.Empty(t, w.Header().Get("Idempotency-Replayed"))
	require.NotContains(t, w.Body.String(), "hush")
	require.NotContains(t, w.Body.String(), "sealed")

	got := h.store.created
	require.Equal(t, fleet.WhenFullRefuse, got.WhenFull)
	require.Equal(t, [3]int{256, 1024, 1}, [3]int{got.MemoryMiB, got.DiskMiB, got.VCPUs})
	require.Equal(t, map[string]string{"TOKEN": "sealed:" + in.ID + "/TOKEN:xxxx"}, got.Secrets)
}

func TestCreateInstallationRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	with := func(field, value string) string {
		m := map[string]json.RawMessage{"name": []byte(`"acme"`), "owner": []byte(`"o"`), "package": []byte(`"p"`)}
		m[field] = []byte(value)
		body, err := json.Marshal(m)
		require.NoError(t, err)
		return string(body)
	}
	big := `"` + strings.Repeat("x", fleet.MaxEnvironment) + `"`
	for name, c := range map[string]struct{ body, field string }{
		"NoName":           {`{"owner":"o","package":"p"}`, "name"},
		"NameUpperCase":    {with("name", `"Acme"`), "name"},
		"NameDot":          {with("name", `"a.b"`), "name"},
		"NameHyphenFirst":  {with("name", `"-a"`), "name"},
		"NameHyphenLast":   {with("name", `"a-"`), "name"},
		"NameTooLong":      {with("name", `"`+strings.Repeat("a", 64)+`"`), "name"},
		"NameUnicode":      {with("name", `"bücher"`), "name"},
		"NamePunycode":     {with("name", `"xn--bcher-kva"`), "name"},
		"NameReserved":     {with("name", `"www"`), "name"},
		"NameLikeID":       {with("name", `"`+fleet.NewID()+`"`), "name"},
		"NamePath":         {with("name", `"../etc"`), "name"},
		"NameNumber":       {with("name", `7`), "name"},
		"NameNull":         {with("name", `null`), "name"},
		"NoOwner":          {`{"name":"a","package":"p"}`, "owner"},
		"OwnerTooLong":     {with("owner", `"`+strings.Repeat("a", 256)+`"`), "owner"},
		"OwnerControl":     {with("owner", `"a\u0007"`), "owner"},
		"OwnerSpace":       {with("owner", `" a"`), "owner"},
		"NoPackage":        {`{"name":"a","owner":"o"}`, "package"},
		"PackageTwoAts":    {with("package", `"p@1@2"`), "package"},
		"PackageNoVersion": {with("package", `"p@"`), "package"},
		"ClusterEmpty":     {with("cluster", `""`), "cluster"},
		"MemoryLow":        {with("memory_mib", `31`), "memory_mib"},
		"MemoryZero":       {with("memory_mib", `0`), "memory_mib"},
		"MemoryHigh":       {with("memory_mib", `1048577`), "memory_mib"},
		"MemoryFraction":   {with("memory_mib", `128.5`), "memory_mib"},
		"MemoryHuge":       {with("memory_mib", `1e400`), "memory_mib"},
		"MemoryString":     {with("memory_mib", `"128MiB"`), "memory_mib"},
		"DiskLow":          {with("disk_mib", `15`), "disk_mib"},
		"VCPUs":            {with("vcpus", `65`), "vcpus"},
		"EnvArray":         {with("env", `[]`), "env"},
		"EnvValueNumber":   {with("env", `{"A":1}`), "env"},
		"EnvValueNull":     {with("env", `{"A":null}`), "env.A"},
		"EnvName":          {with("env", `{"1A":"x"}`), "env.1A"},
		"EnvNameEmpty":     {with("env", `{"":"x"}`), `env.""`},
		"EnvNameEquals":    {with("env", `{"A=B":"x"}`), "env.A=B"},
		"EnvNUL":           {with("env", `{"A":"x\u0000y"}`), "env.A"},
		"EnvTooLarge":      {with("env", `{"A":`+big+`}`), "env"},
		"SecretNUL":        {with("secrets", `{"A":"\u0000"}`), "secrets.A"},
		"SecretsTooLarge":  {with("secrets", `{"A":`+big+`}`), "env"},
		"EnvAndSecret":     {`{"name":"a","owner":"o","package":"p","env":{"A":"1"},"secrets":{"A":"2"}}`, "secrets.A"},
		"LabelKey":         {with("labels", `{"a b":"x"}`), `labels."a b"`},
		"LabelControl":     {with("labels", `{"a":"\n"}`), "labels.a"},
		"WhenFull":         {with("when_full", `"maybe"`), "when_full"},
		"Unknown":          {with("nmae", `"x"`), "nmae"},
		"WrongCase":        {with("Name", `"acme"`), "Name"},
		"Twice":            {`{"name":"a","name":"b","owner":"o","package":"p"}`, "name"},
		"TwiceInside":      {with("env", `{"A":"1","A":"2"}`), "env.A"},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", c.body)
			require.Equal(t, "invalid", p.Kind)
			require.Equal(t, c.field, p.Field, p.Detail)
		})
	}
	require.Empty(t, h.store.installations)
}

func TestBodiesThatAreNotOneObject(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for name, body := range map[string]string{
		"Space": "  \n", "Cut": `{"name":`, "CutString": `{"name":"ac`, "Trailing": createAcme + "x", "TwoObjects": createAcme + createAcme,
		"Array": "[]", "Null": "null", "String": `"x"`, "NotUTF8": "{\"name\":\"\xff\"}", "NotJSON": "name=acme", "Deep": `{"env":` + strings.Repeat("[", 50),
		"DeepObject": strings.Repeat(`{"env":`, 5000),
	} {
		t.Run(name, func(t *testing.T) {
			h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", body)
		})
	}
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", "", header{"Content-Type", "application/json"})
	p := h.refused(t, http.StatusRequestEntityTooLarge, "POST", "/api/v1/installations", strings.Repeat(" ", maxBody)+createAcme)
	require.Contains(t, p.Detail, "1048576")
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin1", "application/merge-patch+json", "/"} {
		h.refused(t, http.StatusUnsupportedMediaType, "POST", "/api/v1/installations", createAcme, header{"Content-Type", kind})
	}
	h.refused(t, http.StatusUnsupportedMediaType, "POST", "/api/v1/installations", createAcme, header{"Content-Encoding", "gzip"})
	require.Equal(t, http.StatusAccepted,
		h.call(t, "POST", "/api/v1/installations", createAcme, header{"Content-Type", "application/json; charset=UTF-8"}).Code)
}

func TestASecretIsNeverRepeated(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, body := range []string{
		`{"name":"acme","owner":"o","package":"p","secrets":{"PIN":31415926}}`,
		`{"name":"acme","owner":"o","package":"p","secrets":{"PIN":"31415926\u0000"}}`,
		`{"name":"acme","owner":"o","package":"p","secrets":{"PIN":"31415926"}}x`,
	} {
		w := h.call(t, "POST", "/api/v1/installations", body)
		require.Equal(t, http.StatusBadRequest, w.Code)
		require.NotContains(t, w.Body.String(), "31415926")
	}
	h.seal.err = errors.New("no key")
	w := h.call(t, "POST", "/api/v1/installations", `{"name":"acme","owner":"o","package":"p","secrets":{"PIN":"31415926"}}`)
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "internal", problemIn(t, w).Kind)
	for _, e := range h.logs.AllEntries() {
		line, err := e.String()
		require.NoError(t, err)
		require.NotContains(t, line, "31415926")
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := header{"Idempotency-Key", "k1"}
	one := call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations", createAcme, key)
	require.Len(t, h.store.created.Key.RequestHash, 64)
	w := h.call(t, "POST", "/api/v1/installations", createAcme, key)
	require.Equal(t, http.StatusAccepted, w.Code)
	require.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
	require.Contains(t, w.Body.String(), one.Operation.ID)
	p := h.refused(t, http.StatusConflict, "POST", "/api/v1/installations", strings.Replace(createAcme, "acme", "other", 1), key)
	require.Equal(t, "conflict", p.Kind)
	h.refused(t, http.StatusConflict, "DELETE", "/api/v1/installations/acme", "", key)
	for _, bad := range []string{strings.Repeat("k", 256), "k\x01", "ключ"} {
		p := h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", createAcme, header{"Idempotency-Key", bad})
		require.Equal(t, "header.Idempotency-Key", p.Field)
	}
	r := request("POST", "/api/v1/installations", createAcme)
	r.Header["Idempotency-Key"] = []string{"a", "b"}
	require.Equal(t, http.StatusBadRequest, h.do(t, r).Code)
	r.Header["Idempotency-Key"] = []string{""}
	require.Equal(t, http.StatusBadRequest, h.do(t, r).Code)
}

func TestHashKeyChangesTheHash(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, key := range []string{"", "a", "b"} {
		h := newHarness(t, func(o *Options) { o.HashKey = []byte(key) })
		h.call(t, "POST", "/api/v1/installations", createAcme, header{"Idempotency-Key", "k"})
		require.False(t, seen[h.store.created.Key.RequestHash])
		seen[h.store.created.Key.RequestHash] = true
	}
}

func TestAnIdempotentPatchIsReplayedAfterTheDeletion(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	v := h.acme(t, fleet.StateStable)
	key := header{"Idempotency-Key", "k"}
	const patch = `{"env":{"A":"1"}}`
	first := call[client.Installation](t, h, http.StatusAccepted, "PATCH", "/api/v1/installations/acme", patch, key)
	h.store.settle("acme", fleet.StateDeleted)
	w := h.call(t, "PATCH", "/api/v1/installations/acme", patch, key)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
	require.Contains(t, w.Body.String(), first.Operation.ID)
	p := h.refused(t, http.StatusNotFound, "PATCH", "/api/v1/installations/acme", patch, header{"Idempotency-Key", "new"})
	require.Contains(t, p.Detail, "acme")
	require.Equal(t, "deleted", call[client.Installation](t, h, http.StatusOK, "GET", "/api/v1/installations/"+string(v.ID), "").State)
}

func TestActions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, path string
		from         fleet.State
		kind         fleet.OperationKind
		to           string
	}{
		{"POST", "/hibernate", fleet.StateStable, fleet.OperationHibernate, "hibernation-requested"},
		{"POST", "/wake", fleet.StateHibernating, fleet.OperationWake, "wake-up-requested"},
		{"POST", "/restart", fleet.StateStable, fleet.OperationRestart, "restart-requested"},
		{"POST", "/retry", fleet.StateUpdateFailed, "", "update-requested"},
		{"DELETE", "", fleet.StateStable, fleet.OperationDelete, "deletion-requested"},
	} {
		t.Run(string(c.kind)+c.path, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			v := h.acme(t, c.from)
			got := call[client.Installation](t, h, http.StatusAccepted, c.method, "/api/v1/installations/"+string(v.ID)+c.path, "{}", header{"If-Match", etag(v.Version)})
			require.Equal(t, c.to, got.State)
			require.Equal(t, c.kind, h.store.changed.Kind)
			require.Equal(t, v.Version, h.store.changed.IfMatch)
			h.refused(t, http.StatusBadRequest, c.method, "/api/v1/installations/acme"+c.path, `{"force":true}`)
			h.refused(t, http.StatusNotFound, c.method, "/api/v1/installations/other"+c.path, "")
			h.refused(t, http.StatusNotFound, c.method, "/api/v1/installations/No_Name"+c.path, "")
		})
	}
}

func TestARefusalSaysWhatIsAccepted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.acme(t, fleet.StateHibernating)
	p := h.refused(t, http.StatusConflict, "POST", "/api/v1/installations/acme/hibernate", "")
	require.Equal(t, "not-accepted", p.Kind)
	require.Equal(t, []string{"update", "wake", "delete"}, p.Accepts)
	require.Contains(t, p.Detail, "hibernating")
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.acme(t, fleet.StateStable)
	for _, stale := range []string{`"99"`, `W/"1"`, `"abc"`, `"0"`, `"01"`, `"-1"`} {
		p := h.refused(t, http.StatusPreconditionFailed, "POST", "/api/v1/installations/acme/restart", "", header{"If-Match", stale})
		require.Equal(t, "stale", p.Kind, stale)
	}
	for _, wrong := range []string{"1", `"1", "2"`, `"`, "abc"} {
		p := h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations/acme/restart", "", header{"If-Match", wrong})
		require.Equal(t, "header.If-Match", p.Field, wrong)
	}
	require.Equal(t, http.StatusAccepted, h.call(t, "POST", "/api/v1/installations/acme/restart", "", header{"If-Match", "*"}).Code)
	w := h.call(t, "GET", "/api/v1/installations/acme", "")
	require.Equal(t, `"2"`, w.Header().Get("ETag"))
	require.Equal(t, http.StatusAccepted, h.call(t, "DELETE", "/api/v1/installations/acme", "", header{"If-Match", `"2"`}).Code)
}

func TestUpdateInstallation(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	v := h.acme(t, fleet.StateStable)
	const patch = `{"package":"workspace@1.1","memory_mib":256,"env":{"A":"1","B":null},"secrets":{"S":"four","OLD":null},"labels":{"x/y":"z"}}`
	got := call[client.Installation](t, h, http.StatusAccepted, "PATCH", "/api/v1/installations/acme", patch,
		header{"Content-Type", "application/merge-patch+json"})
	require.Equal(t, "workspace@1.1", got.Package)
	require.Equal(t, map[string]string{"A": "1"}, got.Env)
	require.Equal(t, []string{"S"}, got.SecretNames)
	c := h.store.changed
	require.Equal(t, string(v.ID), c.IDOrName, "secrets are sealed for this installation, so it is named by ID")
	require.Equal(t, "sealed:"+string(v.ID)+"/S:xxxx", *c.Secrets["S"])
	require.Contains(t, c.Secrets, "OLD")
	require.Nil(t, c.Secrets["OLD"])
	require.Contains(t, c.Env, "B")
	require.Nil(t, c.DiskMiB)
	require.Equal(t, 256, *c.MemoryMiB)

	h.store.settle("acme", fleet.StateStable)
	got = call[client.Installation](t, h, http.StatusAccepted, "PATCH", "/api/v1/installations/acme", `{"env":null,"secrets":null}`)
	require.Empty(t, got.Env)
	require.Empty(t, got.SecretNames)
	require.Equal(t, map[string]string{"x/y": "z"}, got.Labels, "what is absent stays")
}

func TestUpdateInstallationRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	v := h.acme(t, fleet.StateStable)
	half := strings.Repeat("x", fleet.MaxEnvironment/2)
	h.store.installations[v.ID].Env = map[string]string{"A": half}
	h.store.installations[v.ID].Labels = map[string]string{}
	for i := range maxLabels {
		h.store.installations[v.ID].Labels[fmt.Sprint("l", i)] = ""
	}
	for name, c := range map[string]struct{ body, field string }{
		"Nothing": {`{}`, ""}, "PackageNull": {`{"package":null}`, "package"}, "MemoryNull": {`{"memory_mib":null}`, "memory_mib"},
		"Memory": {`{"memory_mib":1}`, "memory_mib"}, "Disk": {`{"disk_mib":0}`, "disk_mib"}, "VCPUs": {`{"vcpus":-1}`, "vcpus"},
		"Name": {`{"name":"other"}`, "name"}, "Package": {`{"package":""}`, "package"}, "Env": {`{"env":{"A B":null}}`, `env."A B"`},
		"EnvType": {`{"env":{"A":{}}}`, "env"}, "Labels": {`{"labels":{"new":""}}`, "labels"}, "Both": {`{"secrets":{"A":"x"}}`, "secrets.A"},
		"Total": {`{"env":{"B":"` + half + `"}}`, "env"},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.refused(t, http.StatusBadRequest, "PATCH", "/api/v1/installations/acme", c.body)
			require.Equal(t, c.field, p.Field, p.Detail)
		})
	}
	h.refused(t, http.StatusNotFound, "PATCH", "/api/v1/installations/other", `{"env":{}}`)
	h.refused(t, http.StatusUnsupportedMediaType, "PATCH", "/api/v1/installations/acme", `{}`, header{"Content-Type", "application/json-patch+json"})
}

func TestListInstallations(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for i := range 5 {
		body := fmt.Sprintf(`{"name":"i%d","owner":"o%d","package":"p","labels":{"n":"%d"}}`, i, i%2, i)
		call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations", body)
	}
	type page = client.Page[client.Installation]
	var names []string
	path, pages := "/api/v1/installations?limit=2", 0
	for next := path; next != ""; pages++ {
		p := call[page](t, h, http.StatusOK, "GET", next, "")
		require.LessOrEqual(t, len(p.Items), 2)
		for _, i := range p.Items {
			names = append(names, i.Name)
		}
		next = ""
		if p.NextCursor != "" {
			next = path + "&cursor=" + p.NextCursor
		}
	}
	require.Equal(t, 3, pages)
	require.ElementsMatch(t, []string{"i0", "i1", "i2", "i3", "i4"}, names)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", "/api/v1/installations?owner=o0", "").Items, 3)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", "/api/v1/installations?label=n%3D3&cluster=local&state=creation-requested", "").Items, 1)
	require.Equal(t, "{\"items\":[]}", h.call(t, "GET", "/api/v1/installations?owner=nobody", "").Body.String())
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=1001": "limit", "limit=x": "limit", "cursor=!": "cursor", "cursor=eHg": "cursor", "state=happy": "state",
		"ownr=x": "ownr", "owner=": "owner", "cluster=": "cluster", "label=x": "label", "label=a%3D1&label=a%3D2": "label", "limit=1&limit=2": "limit",
	} {
		p := h.refused(t, http.StatusBadRequest, "GET", "/api/v1/installations?"+query, "")
		require.Equal(t, "query."+field, p.Field)
	}
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/installations?a=%zz", "")
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations?dry_run=true", createAcme)
}
