package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"
)

// debugHandler serves pprof and the limits in force. Settings let it listen on loopback only.
func (s *server) debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /rlconfig", s.rlconfig)
	return mux
}

// rlconfig shows the limits in force, one a line: those of descriptor files by domain and in the order
// of the file, then the rows.
func (s *server) rlconfig(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for d := range s.service.Files().Domains() {
		writeDomain(w, d)
	}
	t := s.current.Load()
	if t == nil {
		fmt.Fprintln(w, "no limits have been loaded yet")
		return
	}
	fmt.Fprintf(w, "snapshot %d: %d limits\n", t.ID(), t.Len())
	for _, l := range t.Sorted() {
		fmt.Fprintf(w, "%q %s: max_tps=%d per_seconds=%d algorithm=%s burst=%d max_wait_ms=%d enabled=%t shadow=%t\n",
			l.Domain, l.Name(), l.MaxTPS, l.Seconds(), l.Algorithm, l.Capacity(), l.MaxWaitMS, l.Enabled, l.Shadow)
	}
}
