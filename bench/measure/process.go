package measure

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Memory is what a process has in memory, in bytes.
type Memory struct {
	Now  int64 // VmRSS of proc(5)
	Peak int64 // VmHWM: the most since it began, or since ResetPeak
}

// MemoryOf reads /proc/PID/status.
func MemoryOf(pid int) (m Memory, err error) {
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	if m.Now, err = statusKiB(string(body), "VmRSS"); err != nil {
		return m, err
	}
	m.Peak, err = statusKiB(string(body), "VmHWM")
	return m, err
}

func statusKiB(status, field string) (int64, error) {
	_, rest, found := strings.Cut(status, field+":")
	value, _, ended := strings.Cut(rest, "kB")
	if !found || !ended {
		return 0, fmt.Errorf("/proc/PID/status has no %s", field)
	}
	kib, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	return kib << 10, err
}

// ResetPeak makes Peak count from now on.
func ResetPeak(pid int) error {
	const peak = "5" // proc(5), clear_refs
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(peak), 0)
}

// CPUOf returns the time that a process has computed, user and system: the 14th and 15th field of
// /proc/PID/stat (proc(5)), in ticks of which Linux has 100 a second on every architecture that Go
// runs on.
func CPUOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return cpu(string(stat))
}

// cpu reads a line of /proc/PID/stat. The name of the program in it may hold anything, parentheses
// and spaces included.
func cpu(stat string) (sum time.Duration, err error) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	const utime, stime, tick = 11, 12, 10 * time.Millisecond // counted from the field behind the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/PID/stat %q: has too few fields", stat)
	}
	for _, field := range fields[utime : stime+1] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat %q: %w", stat, err)
		}
		sum += time.Duration(ticks) * tick //nolint:gosec // some seconds
	}
	return sum, nil
}

// Busy returns the time that all CPUs together have computed since the machine began, for whatever
// process, and what the machine's host has taken from them: the first line of /proc/stat (proc(5)).
func Busy() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return busy(string(stat))
}

func busy(stat string) (sum time.Duration, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	const idle, iowait, steal, tick = 4, 5, 8, 10 * time.Millisecond
	if len(fields) <= steal || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, field := range fields[:steal+1] {
		if i == 0 || i == idle || i == iowait {
			continue
		}
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat begins with %q: %w", line, err)
		}
		sum += time.Duration(ticks) * tick //nolint:gosec // some years
	}
	return sum, nil
}
