package zone

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/internal/hint"
)

// token reads the zone token.
func (z *Zone) token() (string, error) {
	if z.cfg.TokenFile == "" {
		return "", errors.New("a zone joins global with a zone token: " + hint.GiveZoneToken + "; " +
			hint.ZoneToken(z.cfg.Name))
	}
	data, err := os.ReadFile(z.cfg.TokenFile)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// pins of global's certificate are those of the token as it is now.
func (z *Zone) pins() ([]string, error) {
	token, err := z.token()
	if err != nil {
		return nil, err
	}
	pins, err := servercert.TokenPins(token)
	if err != nil {
		return nil, fmt.Errorf("--token-file %s holds no usable token (%w): %s",
			z.cfg.TokenFile, err, hint.ZoneToken(z.cfg.Name))
	}
	return pins, nil
}

// globalTLS says whom to trust as global. The pins are read at each connection, so that a new token
// counts without a restart, and a damaged one stops nothing but the connection.
func (z *Zone) globalTLS(host string) (*tls.Config, error) {
	if z.cfg.TLSSkipVerify {
		z.Log().Warn("global's certificate is not verified (--tls-skip-verify): the token can be read, " +
			"and what global sends changed, on the way")
	}
	if z.cfg.CAFile != "" || z.cfg.TLSSkipVerify {
		return servercert.ClientTLS(servercert.ClientOptions{
			CAFile:     z.cfg.CAFile,
			SkipVerify: z.cfg.TLSSkipVerify,
			ServerName: host,
		})
	}
	if _, err := z.pins(); err != nil {
		z.Log().Error("the zone token cannot be used; this zone serves what it has", zap.Error(err))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		// VerifyConnection replaces the standard check.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			pins, err := z.pins()
			if err != nil {
				return err
			}
			if len(pins) == 0 {
				return verifySystem(cs, host)
			}
			conf, err := servercert.ClientTLS(servercert.ClientOptions{Pins: pins})
			if err != nil {
				return err
			}
			return conf.VerifyConnection(cs)
		},
	}, nil
}

// verifySystem is the standard check against the system's roots, for a token without pins.
func verifySystem(cs tls.ConnectionState, host string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("global sent no certificate")
	}
	inter := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Intermediates: inter})
	return err
}
