package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryFaultStaysOnItsLine: names that are repeated may hold what ends a line, or what a
// terminal obeys.
func TestEveryFaultStaysOnItsLine(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("plain"), "ratelimitd: plain\n"},
		{fmt.Errorf("a: %w", errors.Join(errors.New("b"), errors.New("c\td"))), "ratelimitd: a: b; c\\td\n"},
		{faults{errors.New("a\nb"), errors.New("c\x1b[31m\x7f\u0085d")}, "ratelimitd: a; b\nratelimitd: c\\x1b[31m\\x7f\\u0085d\n"},
	} {
		var out strings.Builder
		report(&out, c.err)
		if out.String() != c.want {
			t.Errorf("%q is printed as %q, want %q", c.err, out.String(), c.want)
		}
	}
	if err := (faults{}).orNil(); err != nil {
		t.Errorf("no faults are the error %v", err)
	}
}

func TestFaultsOfTheStartAreOneLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what does start ends at once
	for _, c := range []struct {
		names string
		env   []string
	}{
		{"TPS_GRPC_ADDR", []string{"TPS_GRPC_ADDR=a\nb:80"}},
		{"TPS_TLS_CERT", []string{"TPS_TLS_CERT=/nope\nratelimitd: all is well", "TPS_TLS_KEY=k"}},
		{"TPS_DATABASE_URL", []string{"TPS_DATABASE_URL= \n"}},
		{"TPS_DB_HOST", []string{"TPS_DB_HOST= "}},
	} {
		got := command(ctx, append(c.env, "TPS_LIMITS_FILE="+file, "TPS_HTTP_ADDR=127.0.0.1:0", "TPS_DEBUG_ADDR=127.0.0.1:0"))
		if got.code != 1 || lines(got.stderr) != 1 || !strings.Contains(got.stderr, c.names) {
			t.Errorf("%q: status %d, stderr %q; want one line that names %s", c.env, got.code, got.stderr, c.names)
		}
	}
}
