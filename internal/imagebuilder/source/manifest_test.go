package source

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestManifestRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, field, says string }{
		"NotJSON":           {`Program: x`, "", "malformed JSON"},
		"NotAnObject":       {`["x"]`, "", "a JSON object is needed"},
		"Empty":             {``, "", "malformed JSON"},
		"CutShort":          {`{"Program": "/x"`, "", "malformed JSON"},
		"SomethingBehind":   {`{} {}`, "", "something follows"},
		"UnknownKey":        {`{"Progam": "/x"}`, "Progam", `unknown key "Progam"`},
		"UnknownRunKey":     {`{"RunConfig": {"Memroy": "1G"}}`, "RunConfig.Memroy", `unknown key "RunConfig.Memroy"`},
		"UnknownHealthKey":  {`{"Health": {"Url": "/"}}`, "Health.Url", `unknown key "Health.Url"`},
		"KeyTwice":          {`{"Args": [], "args": ["x"]}`, "Args", "given twice"},
		"WrongType":         {`{"Args": "x"}`, "Args", "Args can't be a JSON string"},
		"WrongEnv":          {`{"Env": {"A": 1}}`, "Env", "Env can't be a JSON number"},
		"EnvName":           {`{"Env": {"A=B": ""}}`, "Env", "can't be in an environment"},
		"EnvZero":           {`{"Env": {"A": "\u0000"}}`, "Env", "can't be in an environment"},
		"PortRange":         {`{"Ports": [70000]}`, "Ports", "no port number"},
		"PortFraction":      {`{"Ports": [1.5]}`, "Ports", "no port number"},
		"PortText":          {`{"Ports": ["http"]}`, "Ports", "is no port"},
		"PortBool":          {`{"Ports": [true]}`, "Ports", "is no port"},
		"PortTwice":         {`{"Ports": [80, "80"]}`, "Ports", "named twice"},
		"PortProtocol":      {`{"Ports": ["53/udp"]}`, "Ports", "use http or tcp"},
		"PortKey":           {`{"Ports": [{"Number": 1, "Host": 2}]}`, "Ports", `wrong "Host"`},
		"PortKeyTwice":      {`{"Ports": [{"Number": 1, "Port": 2}]}`, "Ports", "twice"},
		"PortWithoutNumber": {`{"Ports": [{"Name": "x"}]}`, "Ports", "no Number"},
		"HealthType":        {`{"Ports": [1], "Health": {"Type": "ping"}}`, "Health.Type", "use http, tcp or none"},
		"HealthPort":        {`{"Ports": [1], "Health": {"Port": 2}}`, "Health.Port", "not among Ports"},
		"HealthNoPort":      {`{"Health": {"Type": "http"}}`, "Health", "no Ports"},
		"HealthNonePath":    {`{"Health": {"Type": "none", "Path": "/"}}`, "Health", "leave them out"},
		"HealthPath":        {`{"Ports": [1], "Health": {"Path": "healthz"}}`, "Health.Path", "write a path"},
		"HealthTCPPath":     {`{"Ports": [1], "Health": {"Type": "tcp", "Path": "/"}}`, "Health.Path", "no Path"},
		"HealthTimeout":     {`{"Ports": [1], "Health": {"Timeout": "2 seconds"}}`, "Health", "a duration is needed"},
		"HealthTimeoutLong": {`{"Ports": [1], "Health": {"Timeout": "1h"}}`, "Health.Timeout", "at most 1m0s"},
		"Persist":           {`{"Persist": ["data"]}`, "Persist", "clean absolute"},
		"PersistUnclean":    {`{"Persist": ["/data/../etc"]}`, "Persist", "clean absolute"},
		"PersistRoot":       {`{"Persist": ["/"]}`, "Persist", "init fills itself"},
		"PersistProc":       {`{"Persist": ["/proc/x"]}`, "Persist", "init fills itself"},
		"PersistEtc":        {`{"Persist": ["/etc"]}`, "Persist", "init fills itself"},
		"PersistNested":     {`{"Persist": ["/data", "/data/x"]}`, "Persist", "one in the other"},
		"PersistTwice":      {`{"Persist": ["/data", "/data"]}`, "Persist", "one in the other"},
		"Restart":           {`{"Restart": "sometimes"}`, "Restart", "use always, on-failure or never"},
		"Memory":            {`{"MinMemory": "lots"}`, "MinMemory", "no amount of memory"},
		"MemoryTooMuch":     {`{"MinMemory": "9999999G"}`, "MinMemory", "ask for less"},
		"Dir":               {`{"Dir": "x"}`, "Dir", "clean absolute"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseManifest([]byte(c.body))
			requireInvalid(t, err, c.says)
			var typed *fleet.Error
			require.True(t, errors.As(err, &typed))
			if !strings.HasPrefix(c.field, "Health") || typed.Field != "Health.Timeout" {
				require.Equal(t, c.field, typed.Field)
			}
		})
	}
}

func TestManifestDefaults(t *testing.T) {
	t.Parallel()
	http8080 := fleet.Port{Number: 8080, Protocol: fleet.ProtocolHTTP}
	tcp1883 := fleet.Port{Number: 1883, Protocol: fleet.ProtocolTCP}
	second := 2 * time.Second
	for name, c := range map[string]struct {
		body   string
		ports  []fleet.Port
		health fleet.Health
	}{
		"NoPorts":       {`{}`, nil, fleet.Health{Type: fleet.HealthNone}},
		"Number":        {`{"Ports": [8080]}`, []fleet.Port{http8080}, fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/", Timeout: second}},
		"String":        {`{"Ports": ["1883/tcp"]}`, []fleet.Port{tcp1883}, fleet.Health{Type: fleet.HealthTCP, Port: 1883, Timeout: second}},
		"HTTPAmongTCP":  {`{"Ports": ["1883/TCP", "8080/http"]}`, []fleet.Port{tcp1883, http8080}, fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/", Timeout: second}},
		"Object":        {`{"Ports": [{"port": "1883", "protocol": "tcp", "name": "mqtt"}]}`, []fleet.Port{{Number: 1883, Protocol: fleet.ProtocolTCP, Name: "mqtt"}}, fleet.Health{Type: fleet.HealthTCP, Port: 1883, Timeout: second}},
		"RunConfig":     {`{"RunConfig": {"Ports": ["8080"]}}`, []fleet.Port{http8080}, fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/", Timeout: second}},
		"TCPOnHTTPPort": {`{"Ports": [8080], "Health": {"Type": "tcp"}}`, []fleet.Port{http8080}, fleet.Health{Type: fleet.HealthTCP, Port: 8080, Timeout: second}},
		"Said":          {`{"Ports": [8080], "Health": {"Path": "/healthz", "Timeout": "500ms"}}`, []fleet.Port{http8080}, fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/healthz", Timeout: second / 4}},
		"NoneSaid":      {`{"Ports": [8080], "Health": {"Type": "none"}}`, []fleet.Port{http8080}, fleet.Health{Type: fleet.HealthNone}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := ParseManifest([]byte(c.body))
			require.NoError(t, err)
			require.Equal(t, c.ports, m.normalised("/x").Ports)
			require.Equal(t, c.health, m.Health)
			require.Equal(t, fleet.RestartAlways, m.Restart)
		})
	}
}

func TestManifestMemory(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{`128`: 128, `"128"`: 128, `"128M"`: 128, `"64MiB"`: 64, `"2G"`: 2048, `"1gib"`: 1024, `"512 MB"`: 512} {
		m, err := ParseManifest(fmt.Appendf(nil, `{"MinMemory": %s}`, text))
		require.NoError(t, err, text)
		require.Equal(t, want, m.MinMemoryMiB, text)
	}
	m, err := ParseManifest([]byte(`{"RunConfig": {"Memory": "1G"}}`))
	require.NoError(t, err)
	require.Equal(t, 1024, m.MinMemoryMiB)
	m, err = ParseManifest([]byte(`{"RunConfig": {"Memory": "1G"}, "MinMemory": "64MiB"}`))
	require.NoError(t, err)
	require.Equal(t, 64, m.MinMemoryMiB)
}

func TestManifestOfOPS(t *testing.T) {
	t.Parallel()
	m, err := ParseManifest([]byte(`{
		"Program": "node_v1/node", "Args": ["node", "app.js"], "Version": "1", "NameServers": ["1.1.1.1"], "BaseVolumeSz": "1g",
		"CloudConfig": {"Platform": "gcp"}, "RunConfig": {"Memory": "2G", "Accel": true}, "Debugflags": ["x"], "Health": null}`))
	require.NoError(t, err)
	require.Equal(t, []string{"app.js"}, m.Args)
	require.Equal(t, []string{
		"package.manifest: the key CloudConfig has no effect here", "package.manifest: the key Debugflags has no effect here",
		"package.manifest: the key RunConfig.Accel has no effect here",
	}, m.Warnings)
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"Ports":[80,"1883/tcp",{"Port":1,"Name":"x"}],"Health":{"Type":"http","Timeout":"2s"},"Persist":["/data"],"MinMemory":"1G"}`))
	f.Add([]byte(`{"RunConfig":{"Memory":"2G","Ports":["8080"]},"Env":{"A":"b"},"MapDirs":{"a/*":"/b"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ParseManifest(raw)
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			return
		}
		// What is accepted comes back from its canonical form as it was.
		p := &Package{Name: "n", Version: "v", Manifest: m.normalised("/p")}
		body, err := p.canonicalJSON()
		require.NoError(t, err)
		again, err := ParseManifest(body)
		require.NoError(t, err, "%s", body)
		repeat, err := (&Package{Name: "n", Version: "v", Manifest: again.normalised("/p")}).canonicalJSON()
		require.NoError(t, err)
		require.Equal(t, string(body), string(repeat))
	})
}
