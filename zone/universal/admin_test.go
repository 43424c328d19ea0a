package universal

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	dataplanev1 "github.com/meridian-mesh/meridian/proto/meridian/dataplane/v1"
)

// launcher is the other end of a session: it hands out what the zone sends.
type launcher struct {
	dataplanev1.DataplaneService_SessionServer
	sent   chan *dataplanev1.SessionResponse
	broken error
}

func (l *launcher) Send(m *dataplanev1.SessionResponse) error {
	if l.broken != nil {
		return l.broken
	}
	l.sent <- m
	return nil
}

func TestAdmin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join("a")
		defer m.Leave(nil)
		ctx := t.Context()
		if _, err := w.reg.Admin(ctx, key("a"), "clusters", ""); !errors.Is(err, ErrNoLauncher) {
			t.Errorf("without a launcher: %v", err)
		}
		if _, err := w.reg.Admin(ctx, key("unknown"), "clusters", ""); !errors.Is(err, ErrNoLauncher) {
			t.Errorf("without a proxy: %v", err)
		}
		l := &launcher{sent: make(chan *dataplanev1.SessionResponse, 10)}
		mine := &session{
			stream:  &stream{DataplaneService_SessionServer: l},
			version: "0.1",
			asked:   map[uint64]*ask{},
		}
		w.reg.mu.Lock()
		w.reg.proxies[key("a")].session = mine
		w.reg.mu.Unlock()
		if _, err := w.reg.Admin(ctx, key("a"), "clusters", ""); !errors.Is(err, ErrCannotAnswer) ||
			!strings.Contains(err.Error(), "meridian-dp 0.1 is too old") {
			t.Errorf("an old launcher: %v", err)
		}
		mine.answers = true

		type result struct {
			body []byte
			err  error
		}
		ask := func(ctx context.Context, what string) (*dataplanev1.AdminQuestion, <-chan result) {
			got := make(chan result, 1)
			go func() {
				body, err := w.reg.Admin(ctx, key("a"), what, "")
				got <- result{body, err}
			}()
			return (<-l.sent).GetAdminQuestion(), got
		}
		// Two questions at once, whose answers come in parts that mix.
		one, first := ask(ctx, "clusters")
		two, second := ask(ctx, "config_dump")
		if one.GetId() == two.GetId() || one.GetTopic() != dataplanev1.AdminTopic_ADMIN_TOPIC_CLUSTERS ||
			two.GetTopic() != dataplanev1.AdminTopic_ADMIN_TOPIC_CONFIG_DUMP {
			t.Fatalf("questions %v and %v", one, two)
		}
		mine.take(&dataplanev1.AdminAnswer{Id: two.GetId(), Body: []byte("du")})
		mine.take(&dataplanev1.AdminAnswer{Id: one.GetId(), Body: []byte("clusters"), Last: true})
		mine.take(&dataplanev1.AdminAnswer{Id: two.GetId(), Body: []byte("mp"), Last: true})
		if r := <-first; r.err != nil || string(r.body) != "clusters" {
			t.Errorf("first: %q %v", r.body, r.err)
		}
		if r := <-second; r.err != nil || string(r.body) != "dump" {
			t.Errorf("second: %q %v", r.body, r.err)
		}

		q, got := ask(ctx, "stats")
		mine.take(&dataplanev1.AdminAnswer{Id: q.GetId(), Error: "Envoy is not up", Last: true})
		if r := <-got; !errors.Is(r.err, ErrCannotAnswer) ||
			!strings.Contains(r.err.Error(), "Envoy is not up") {
			t.Errorf("an error: %v", r.err)
		}

		// One that is too long fails alone, and its rest is dropped.
		q, got = ask(ctx, "config_dump")
		half := bytes.Repeat([]byte("x"), maxAdminAnswer/2+1)
		for range 3 {
			mine.take(&dataplanev1.AdminAnswer{Id: q.GetId(), Body: half})
		}
		if r := <-got; !errors.Is(r.err, ErrCannotAnswer) || !strings.Contains(r.err.Error(), "longer than") {
			t.Errorf("too long: %v", r.err)
		}

		// A caller that gives up, a session that ends.
		impatient, cancel := context.WithCancel(ctx)
		q, got = ask(impatient, "stats")
		cancel()
		if r := <-got; !errors.Is(r.err, context.Canceled) {
			t.Errorf("a caller that gave up: %v", r.err)
		}
		mine.take(&dataplanev1.AdminAnswer{Id: q.GetId(), Body: []byte("late"), Last: true})
		_, got = ask(ctx, "stats")
		mine.end()
		if r := <-got; !errors.Is(r.err, ErrNoLauncher) {
			t.Errorf("a session that ended: %v", r.err)
		}
		if _, err := w.reg.Admin(ctx, key("a"), "stats", ""); !errors.Is(err, ErrNoLauncher) {
			t.Errorf("after the end: %v", err)
		}
		if len(mine.asked) != 0 {
			t.Errorf("%d questions are still held", len(mine.asked))
		}
	})
}
