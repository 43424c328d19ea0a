package launcher

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// TestAdminQuestions: the zone hears what Envoy says to a few questions, in parts, and can ask nothing else.
func TestAdminQuestions(t *testing.T) {
	long := strings.Repeat("0123456789", maxPart/4) // two and a half parts
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.String())
		mu.Unlock()
		switch r.URL.Path {
		case "/config_dump":
			_, _ = w.Write([]byte(long))
		case "/clusters":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("not now"))
		default:
			_, _ = w.Write([]byte("{}"))
		}
	}))
	defer srv.Close()
	s := &session{admin: newAdmin("tcp", srv.Listener.Addr().String())}
	const (
		dump     = dataplanev1.AdminTopic_ADMIN_TOPIC_CONFIG_DUMP
		clusters = dataplanev1.AdminTopic_ADMIN_TOPIC_CLUSTERS
		stats    = dataplanev1.AdminTopic_ADMIN_TOPIC_STATS
		info     = dataplanev1.AdminTopic_ADMIN_TOPIC_SERVER_INFO
	)
	ask := func(topic dataplanev1.AdminTopic, filter string) (body, problem string, parts int) {
		t.Helper()
		answers := make(chan *dataplanev1.AdminAnswer)
		go s.answer(t.Context(), &dataplanev1.AdminQuestion{Id: 7, Topic: topic, Filter: filter}, answers)
		for {
			a := receive(t, "an answer", answers)
			if a.GetId() != 7 || len(a.GetBody()) > maxPart {
				t.Fatalf("part of %d with %d bytes", a.GetId(), len(a.GetBody()))
			}
			body += string(a.GetBody())
			parts++
			if a.GetLast() {
				return body, a.GetError(), parts
			}
		}
	}
	if body, problem, parts := ask(dump, ""); body != long || problem != "" || parts != 3 {
		t.Errorf("config_dump: %d bytes in %d parts, %q", len(body), parts, problem)
	}
	if body, problem, _ := ask(stats, "a&usedonly=x|b$"); body != "{}" || problem != "" {
		t.Errorf("stats: %q %q", body, problem)
	}
	if _, problem, _ := ask(clusters, ""); !strings.Contains(problem, "answered 503 not now") {
		t.Errorf("clusters: %q", problem)
	}
	mu.Lock()
	if want := "GET /stats?format=json&filter=a%26usedonly%3Dx%7Cb%24"; asked[1] != want {
		t.Errorf("asked %q, want %q", asked[1], want)
	}
	before := len(asked)
	mu.Unlock()
	for _, topic := range []dataplanev1.AdminTopic{0, 6, -1} {
		if _, problem, _ := ask(topic, ""); !strings.Contains(problem, "does not answer") {
			t.Errorf("%s: %q", topic, problem)
		}
	}
	if _, problem, _ := ask(dump, "x"); !strings.Contains(problem, "takes no filter") {
		t.Errorf("a filter: %q", problem)
	}
	if len(asked) != before {
		t.Errorf("Envoy was asked %q", asked[before:])
	}
	if _, _, err := s.admin.fetch(t.Context(), "/config_dump", 100); err == nil ||
		!strings.Contains(err.Error(), "longer than 100 bytes") {
		t.Errorf("a long answer: %v", err)
	}
	srv.Close()
	if _, problem, _ := ask(info, ""); !strings.Contains(problem, "does not answer") {
		t.Errorf("without Envoy: %q", problem)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.answer(ended, &dataplanev1.AdminQuestion{Topic: stats},
		make(chan *dataplanev1.AdminAnswer)) // returns though nothing receives
}
