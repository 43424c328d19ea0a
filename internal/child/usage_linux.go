package child

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// CPU is the CPU time that a process has used so far, over all its threads, to the nanosecond. The
// time of threads that have ended is not in it.
func CPU(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}

	var total time.Duration
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has just ended
		}
		first, _, _ := bytes.Cut(data, []byte(" "))
		n, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		total += time.Duration(n)
	}
	return total, nil
}

// Children are the processes that a process has started and that still run.
func Children(pid int) ([]int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range bytes.Fields(data) {
		n, err := strconv.Atoi(string(field))
		if err != nil {
			return nil, err
		}
		pids = append(pids, n)
	}
	return pids, nil
}

// Memory is the resident memory of a process in bytes, now and at its peak.
func Memory(pid int) (now, peak uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	field := func(name string) uint64 {
		_, rest, _ := bytes.Cut(data, []byte("\n"+name+":"))
		words := bytes.Fields(rest)
		if len(words) == 0 {
			return 0
		}
		n, _ := strconv.ParseUint(string(words[0]), 10, 64)
		return n << 10 // the file counts in kB
	}
	return field("VmRSS"), field("VmHWM"), nil
}
