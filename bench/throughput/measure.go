package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// measured is one round of one server.
type measured struct {
	perSecond float64 // requests
	cpuMicros float64 // CPU time of the server per request, user and system
}

// h2load is how the client is called.
type h2load struct {
	frame       string // file with the body of each request
	requests    int
	connections int
	streams     int
}

func (l h2load) args(addr string) []string {
	return []string{
		"-n", strconv.Itoa(l.requests), "-c", strconv.Itoa(l.connections), "-m", strconv.Itoa(l.streams), "-d", l.frame,
		"-H", "content-type: application/grpc", "-H", "te: trailers", "http://" + addr + methodPath,
	}
}

// measure puts the server under load once.
func (s *server) measure(ctx context.Context, l h2load) (measured, error) {
	before, err := s.usage(ctx)
	if err != nil {
		return measured{}, err
	}
	out, err := exec.CommandContext(ctx, "h2load", l.args(s.addr)...).CombinedOutput() //nolint:gosec // numbers and an address of this run
	if err != nil {
		return measured{}, fmt.Errorf("h2load: %w\n%s", err, out)
	}
	perSecond, err := parseH2load(string(out), l.requests)
	if err != nil {
		return measured{}, err
	}
	after, err := s.usage(ctx)
	if err != nil {
		return measured{}, err
	}
	if s.metrics != "" && after.decisions-before.decisions != l.requests {
		return measured{}, fmt.Errorf("%d of %d requests were decided", after.decisions-before.decisions, l.requests)
	}
	return measured{perSecond: perSecond, cpuMicros: (after.cpuMicros - before.cpuMicros) / float64(l.requests)}, nil
}

// usage is what a server has done so far.
type usage struct {
	cpuMicros float64
	decisions int // of ratelimitd
}

func (s *server) usage(ctx context.Context) (u usage, err error) {
	if s.metrics != "" {
		if u.decisions, err = s.decisions(ctx); err != nil {
			return u, err
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid)) //nolint:gosec // a process that this program has started
	if err != nil {
		return u, err
	}
	u.cpuMicros, err = cpuMicros(string(stat))
	return u, err
}

// cpuMicros reads utime and stime, the 14th and 15th field of /proc/PID/stat (proc(5)), in ticks
// of which Linux has 100 a second on every architecture that Go runs on. The name of the program
// before them may hold anything, parentheses and spaces included.
func cpuMicros(stat string) (float64, error) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	const utime, stime, microsPerTick = 11, 12, 10_000 // counted from the field behind the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/PID/stat %q: has too few fields", stat)
	}
	sum := 0.0
	for _, field := range fields[utime : stime+1] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat %q: %w", stat, err)
		}
		sum += float64(ticks) * microsPerTick
	}
	return sum, nil
}

// parseH2load returns the requests per second, and fails unless every request was answered 200.
func parseH2load(out string, requests int) (float64, error) {
	ok := regexp.MustCompile(`(?m)^status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx$`).FindStringSubmatch(out)
	speed := regexp.MustCompile(`(?m)^finished in .*, ([\d.]+) req/s`).FindStringSubmatch(out)
	if ok == nil || speed == nil {
		return 0, errors.New("h2load has printed something else than expected:\n" + out)
	}
	if ok[1] != strconv.Itoa(requests) {
		return 0, fmt.Errorf("%s of %d requests were answered 200:\n%s", ok[1], requests, out)
	}
	return strconv.ParseFloat(speed[1], 64)
}
