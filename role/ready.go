package role

import (
	"context"
	"errors"
)

// Condition is one of those that a control plane waits for before it is ready.
type Condition struct {
	// Done is closed once it holds.
	Done <-chan struct{}
	// Missing says why it does not yet.
	Missing func() string
}

// AddCondition adds one with a fixed text. Call it before Run.
func (p *ControlPlane) AddCondition(done <-chan struct{}, missing string) {
	p.AddConditions(Condition{Done: done, Missing: func() string { return missing }})
}

// AddConditions adds conditions, in the order in which they are reported. Call it before Run.
func (p *ControlPlane) AddConditions(cs ...Condition) { p.conditions = append(p.conditions, cs...) }

// Ready is closed once every condition holds, and the first keys exist.
func (p *ControlPlane) Ready() <-chan struct{} { return p.ready }

// becomeReady closes ready when everything is there; it ends early.
func (p *ControlPlane) becomeReady(ctx context.Context) error {
	for _, c := range append(p.conditions, Condition{Done: p.keys}) {
		select {
		case <-c.Done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	close(p.ready)
	p.log.Info("ready")
	return nil
}

// notReady is why the control plane is not ready; nil if it is.
func (p *ControlPlane) notReady() error {
	if IsClosed(p.ready) {
		return nil
	}
	for _, c := range p.conditions {
		if !IsClosed(c.Done) {
			return errors.New(c.Missing())
		}
	}
	return errors.New("the first keys are not created yet")
}

// IsClosed reports whether a channel on which nothing is sent is closed.
func IsClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
