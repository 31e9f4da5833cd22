//go:build e2e

package e2e_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawRequest is sent byte for byte: net/http would refuse to send much of what an attacker does.
type rawRequest struct {
	path     string
	fields   [][2]string
	patience time.Duration // for the whole answer; 0 = rawTimeout
}

// rawReply is what came back. status 0 = Envoy has refused the request without an answer.
type rawReply struct {
	status int
	fields [][2]string // names in lower case
}

func (r rawReply) get(name string) string {
	for _, f := range r.fields {
		if f[0] == name {
			return f[1]
		}
	}
	return ""
}

// rawClient sends one request on a connection of its own.
type rawClient func(addr string, r rawRequest) (rawReply, error)

var rawClients = map[string]rawClient{"HTTP/1": sendHTTP1, "HTTP/2": sendHTTP2}

const rawTimeout = 20 * time.Second

func dialRaw(addr string, r rawRequest) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, rawTimeout)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(cmp.Or(r.patience, rawTimeout)))
}

func sendHTTP1(addr string, r rawRequest) (rawReply, error) {
	conn, err := dialRaw(addr, r)
	if err != nil {
		return rawReply{}, err
	}
	defer func() { _ = conn.Close() }() // all that matters was read
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nhost: test\r\nconnection: close\r\n", r.path)
	for _, f := range r.fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	b.WriteString("\r\n")
	if _, err := conn.Write(b.Bytes()); err != nil {
		return rawReply{}, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		return rawReply{}, err
	}
	return parseHTTP1(answer)
}

// parseHTTP1 reads exactly one answer, and refuses anything that is not in its place: an answer
// that was split would leave something over.
func parseHTTP1(answer []byte) (rawReply, error) {
	head, body, ok := strings.Cut(string(answer), "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	if !ok || !strings.HasPrefix(lines[0], "HTTP/1.1 ") {
		return rawReply{}, fmt.Errorf("no answer of HTTP/1.1: %q", answer)
	}
	var r rawReply
	var err error
	if r.status, err = strconv.Atoi(strings.Fields(lines[0])[1]); err != nil {
		return r, fmt.Errorf("status line %q: %w", lines[0], err)
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			return r, fmt.Errorf("line %q is no header", line)
		}
		r.fields = append(r.fields, [2]string{strings.ToLower(name), value})
	}
	if length := r.get("content-length"); length != strconv.Itoa(len(body)) && r.get("transfer-encoding") == "" {
		return r, fmt.Errorf("content-length is %q, %d bytes came: %q", length, len(body), body)
	}
	return r, nil
}

func sendHTTP2(addr string, r rawRequest) (rawReply, error) {
	conn, err := dialRaw(addr, r)
	if err != nil {
		return rawReply{}, err
	}
	defer func() { _ = conn.Close() }() // all that matters was read
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return rawReply{}, err
	}
	if err := errors.Join(framer.WriteSettings(), writeHeaders(framer, r)); err != nil {
		return rawReply{}, err
	}
	return readHTTP2(framer)
}

func writeHeaders(framer *http2.Framer, r rawRequest) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range slices.Concat([][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "test"}, {":path", r.path}}, r.fields) {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	const frame = 16_384
	chunk := block.Next(frame)
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: chunk, EndStream: true, EndHeaders: block.Len() == 0}); err != nil {
		return err
	}
	for block.Len() > 0 {
		chunk = block.Next(frame)
		if err := framer.WriteContinuation(1, block.Len() == 0, chunk); err != nil {
			return err
		}
	}
	return nil
}

// readHTTP2 reads to the end of the stream, or to its reset: then the status is 0.
func readHTTP2(framer *http2.Framer) (rawReply, error) {
	var r rawReply
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return r, err
		}
		ended := false
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				if h.Name == ":status" {
					if r.status, err = strconv.Atoi(h.Value); err != nil {
						return r, err
					}
					continue
				}
				r.fields = append(r.fields, [2]string{h.Name, h.Value})
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return rawReply{}, nil
		}
		if ended {
			return r, nil
		}
	}
}

func TestRawHTTP1FindsASplitAnswer(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
	if r, err := parseHTTP1([]byte(whole)); err != nil || r.status != 200 {
		t.Errorf("a whole answer: %+v, %v", r, err)
	}
	for _, bad := range []string{whole + whole, whole + "x", "HTTP/1.1 200 OK\r\nno header\r\n\r\n", "200"} {
		if r, err := parseHTTP1([]byte(bad)); err == nil {
			t.Errorf("%q was taken as %+v", bad, r)
		}
	}
}
