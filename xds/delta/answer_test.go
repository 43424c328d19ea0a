package delta_test

import (
	"testing"

	"github.com/meridian-mesh/meridian/xds/delta"
)

// TestAnswerOfAKnownRevision: an update without a revision of its own, as a renewed certificate, is answered too: the engine
// would count the proxy among those that owe an answer until something else of it changes.
func TestAnswerOfAKnownRevision(t *testing.T) {
	for name, change := range map[string]func(*world){
		"content": func(w *world) { w.secret++ }, // the proxy is sent something
		"nothing": func(w *world) {},             // it has it all
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			w := services("a")
			revision := r.engine.set(t, w)
			c := r.connect(t)
			c.until(t, holds(t, w))
			r.engine.answered(t, revision)
			reports := 0
			r.engine.feed(t, func(f *feed) bool { reports = f.reports; return true })
			c.log()
			change(&w)
			r.engine.setAt(&delta.Table{Segments: []*delta.Segment{delta.NewSegment(w.resources(t))}}, 0)
			r.engine.feed(t, func(f *feed) bool { return f.reports > reports && f.answered == revision })
			c.until(t, holds(t, w))
		})
	}
}
