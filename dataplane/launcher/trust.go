package launcher

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"

	"github.com/meridian-mesh/meridian/identity/servercert"
)

// trust is how the zone's certificate is checked.
type trust struct {
	conf *tls.Config

	mu       sync.Mutex
	mismatch error // of the last handshake: the server is not the token's control plane
}

// newTrust trusts a server as o says. If o names no other way, it is by the pins that the token carries at
// the time of a handshake, for a token that is replaced may carry others; then it fails if the present
// token carries none.
func newTrust(o servercert.ClientOptions, token func() string) (*trust, error) {
	t := &trust{}
	if o.CAFile == "" && !o.SkipVerify {
		pins, err := tokenPins(token())
		if err != nil {
			return nil, err
		}
		o.Pins = pins
	}
	conf, err := servercert.ClientTLS(o)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	t.conf = conf
	if len(o.Pins) > 0 {
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			err := verifyPins(cs, o, token())
			t.mu.Lock()
			t.mismatch = err
			t.mu.Unlock()
			return err
		}
	}
	return t, nil
}

func tokenPins(token string) ([]string, error) {
	pins, err := servercert.TokenPins(token)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if len(pins) == 0 {
		return nil, errors.New("the token carries no pin of a control plane's certificate; give its CA " +
			"with --ca-file")
	}
	return pins, nil
}

func verifyPins(cs tls.ConnectionState, o servercert.ClientOptions, token string) error {
	pins, err := tokenPins(token)
	if err != nil {
		return err
	}
	o.Pins = pins
	conf, err := servercert.ClientTLS(o)
	if err != nil {
		return err
	}
	return conf.VerifyConnection(cs)
}

// foreign is why the server that answered is not the control plane that the token is of, or nil.
func (t *trust) foreign() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mismatch
}
