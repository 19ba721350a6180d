package wire

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// refused is a corpus of requests that two programs could understand in two ways,
// or that are no HTTP: each is followed by a second request, which must never
// be answered.
func refused() map[string]struct {
	text string
	want int
} {
	type test = struct {
		text string
		want int
	}
	post := func(fields string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" }
	get := func(fields string) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" }
	return map[string]test{
		"CL and TE":                    {post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400},
		"TE and CL":                    {post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n", 400},
		"TE and CL of 0":               {post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n") + "0\r\n\r\n", 400},
		"two TE":                       {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400},
		"TE and unknown TE":            {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n") + "0\r\n\r\n", 400},
		"TE in a list":                 {post("Transfer-Encoding: identity, chunked\r\n") + "0\r\n\r\n", 400},
		"TE chunked twice":             {post("Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n", 400},
		"TE with a vertical tab":       {post("Transfer-Encoding: \vchunked\r\n") + "0\r\n\r\n", 400},
		"TE in quotes":                 {post("Transfer-Encoding: \"chunked\"\r\n") + "0\r\n\r\n", 400},
		"TE with a parameter":          {post("Transfer-Encoding: chunked;a=b\r\n") + "0\r\n\r\n", 400},
		"TE unknown":                   {post("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n", 501},
		"TE identity":                  {post("Transfer-Encoding: identity\r\n"), 501},
		"TE empty":                     {post("Transfer-Encoding:\r\n"), 400},
		"TE behind a space":            {post("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n", 400},
		"TE folded":                    {post("Transfer-Encoding:\r\n chunked\r\n") + "0\r\n\r\n", 400},
		"TE behind a fold":             {post("X: y\r\n Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400},
		"TE after a bare CR":           {post("X: y\rTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400},
		"TE after a bare LF":           {post("X: y\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400},
		"TE with NUL":                  {post("Transfer-Encoding: chunked\x00\r\n") + "0\r\n\r\n", 400},
		"TE with 1.0":                  {"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"two CL that differ":           {post("Content-Length: 4\r\nContent-Length: 5\r\n") + "abcde", 400},
		"two CL that do not":           {post("Content-Length: 4\r\nContent-Length: 4\r\n") + "abcd", 400},
		"CL as a list":                 {post("Content-Length: 4, 4\r\n") + "abcd", 400},
		"CL with a sign":               {post("Content-Length: +4\r\n") + "abcd", 400},
		"CL below 0":                   {post("Content-Length: -4\r\n") + "abcd", 400},
		"CL in hexadecimal":            {post("Content-Length: 0x4\r\n") + "abcd", 400},
		"CL with a blank":              {post("Content-Length: 4 4\r\n") + "abcd", 400},
		"CL empty":                     {post("Content-Length: \r\n"), 400},
		"CL too long":                  {post("Content-Length: 99999999999999999999\r\n"), 400},
		"CL behind a space":            {post("Content-Length : 4\r\n") + "abcd", 400},
		"bare LF":                      {"GET / HTTP/1.1\nHost: a\n\n", 400},
		"bare LF in the end":           {"GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		"bare CR in the request line":  {"GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"bare CR in a value":           {get("X: a\rb\r\n"), 400},
		"NUL in a value":               {get("X: a\x00b\r\n"), 400},
		"DEL in a value":               {get("X: a\x7fb\r\n"), 400},
		"NUL in a name":                {get("X\x00: a\r\n"), 400},
		"no name":                      {get(": a\r\n"), 400},
		"no colon":                     {get("X\r\n"), 400},
		"name with a blank":            {get("X Y: a\r\n"), 400},
		"name with a character":        {get("X(: a\r\n"), 400},
		"first field folded":           {"GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", 400},
		"no Host":                      {"GET / HTTP/1.1\r\n\r\n", 400},
		"no Host with 1.0":             {"GET / HTTP/1.0\r\n\r\n", 400},
		"two Hosts":                    {get("Host: a\r\n"), 400},
		"two Hosts that differ":        {get("Host: b\r\n"), 400},
		"Host empty":                   {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
		"Host a list":                  {"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
		"Host with a path":             {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
		"Host with a user":             {"GET / HTTP/1.1\r\nHost: x@a\r\n\r\n", 400},
		"Host with a bad port":         {"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400},
		"Host with no port":            {"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400},
		"Host with two ports":          {"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400},
		"Host with a signed port":      {"GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", 400},
		"Host with a bad address":      {"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
		"absolute with another Host":   {"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"absolute of another scheme":   {"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"absolute with a user":         {"GET http://x@a/ HTTP/1.1\r\nHost: x@a\r\n\r\n", 400},
		"authority form":               {"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"CONNECT":                      {"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405},
		"asterisk with GET":            {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"fragment":                     {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"target with NEL":              {"GET /a\x85HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"target with a tab":            {"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"two blanks":                   {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"blank at the end of the line": {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
		"blank before the method":      {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"method with a character":      {"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"method too long":              {strings.Repeat("G", 33) + " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"HTTP/0.9":                     {"GET /\r\n\r\n", 400},
		"HTTP/1.2":                     {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400},
		"HTTP/01.1":                    {"GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400},
		"http/1.1":                     {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},
		"HTTP/3.0":                     {"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
		"HTTP/2 preface":               {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		"TLS":                          {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		"SSH":                          {"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400},
		"Expect something":             {post("Expect: x\r\nContent-Length: 1\r\n"), 417},
		"two Upgrades":                 {get("Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n"), 400},
		"Connection too long":          {get("Connection: " + strings.Repeat("x,", 40) + "\r\n"), 400},
		"head too long":                {get("X: " + strings.Repeat("x", 70000) + "\r\n"), 431},
		"head without an end":          {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 200000), 431},
		"too many fields":              {get(strings.Repeat("X: y\r\n", 200)), 431},
		"chunk size with a sign":       {post("Transfer-Encoding: chunked\r\n") + "+1\r\na\r\n0\r\n\r\n", 400},
		"chunk size in 0x":             {post("Transfer-Encoding: chunked\r\n") + "0x1\r\na\r\n0\r\n\r\n", 400},
		"chunk size empty":             {post("Transfer-Encoding: chunked\r\n") + "\r\n0\r\n\r\n", 400},
		"chunk size with a blank":      {post("Transfer-Encoding: chunked\r\n") + "1 \r\na\r\n0\r\n\r\n", 400},
		"chunk size too long":          {post("Transfer-Encoding: chunked\r\n") + "10000000000000001\r\na\r\n0\r\n\r\n", 400},
		"chunk size with LF":           {post("Transfer-Encoding: chunked\r\n") + "1\na\r\n0\r\n\r\n", 400},
		"chunk longer than it says":    {post("Transfer-Encoding: chunked\r\n") + "1\r\nab\r\n0\r\n\r\n", 400},
		"chunk ended by LF":            {post("Transfer-Encoding: chunked\r\n") + "1\r\na\n0\r\n\r\n", 400},
		"chunk extension with CR":      {post("Transfer-Encoding: chunked\r\n") + "1;a\rb\r\na\r\n0\r\n\r\n", 400},
		"chunk extension too long":     {post("Transfer-Encoding: chunked\r\n") + "1;" + strings.Repeat("x", 3000) + "\r\na\r\n0\r\n\r\n", 400},
		"trailer with a fold":          {post("Transfer-Encoding: chunked\r\n") + "0\r\n X: y\r\n\r\n", 400},
		"trailer without a colon":      {post("Transfer-Encoding: chunked\r\n") + "0\r\nX\r\n\r\n", 400},
		"trailer too long":             {post("Transfer-Encoding: chunked\r\n") + "0\r\nX: " + strings.Repeat("x", 30000) + "\r\n\r\n", 431},
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range refused() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var smuggled atomic.Bool
			address := instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.Contains(line, "smuggled") {
						smuggled.Store(true)
					}
				}
			})
			_, gateway := serve(t, Options{Handler: newRoute(address)})
			answer := ask(t, gateway, test.text+"GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			require.True(t, strings.HasPrefix(answer, "HTTP/1.1 "+strconv.Itoa(test.want)+" "), answer)
			require.Equal(t, 1, strings.Count(answer, "HTTP/1.1"), answer)
			require.Contains(t, answer, "\r\nConnection: close\r\n")
			require.False(t, smuggled.Load())
		})
	}
}
