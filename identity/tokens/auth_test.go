package tokens

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/identity/servercert"
	"github.com/meridian-mesh/meridian/kds"
	"github.com/meridian-mesh/meridian/mesh"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1alpha1"
	"github.com/meridian-mesh/meridian/store/replica"
)

var testNow = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// world is a view that tests change, and Tokens over it.
type world struct {
	t        *testing.T
	revision uint64
	secrets  map[mesh.Key]*mesh.Resource
	now      time.Time
	tokens   *Tokens
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, secrets: map[mesh.Key]*mesh.Resource{}, now: testNow}
	w.tokens = New(Config{
		View: w.view,
		Pins: func() []string { return []string{"aa", "bb"} },
		Now:  func() time.Time { return w.now },
	})
	return w
}

func (w *world) view() replica.View {
	var rs []*mesh.Resource
	for _, r := range w.secrets {
		rs = append(rs, r)
	}
	return replica.NewView(w.revision, rs...)
}

func (w *world) put(key mesh.Key, data []byte) {
	w.revision++
	r := secret(key, data)
	r.Revision = w.revision
	w.secrets[key] = r
}

func (w *world) key(kind mesh.Kind, meshName, name string) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		w.t.Fatal(err)
	}
	w.put(mesh.Key{Kind: kind, Mesh: meshName, Name: name},
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t *testing.T, err error, code Code, texts ...string) {
	t.Helper()
	var te *TokenError
	if !errors.As(err, &te) || te.Code != code {
		t.Fatalf("error = %v, want a TokenError of code %s", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(te.Reason, text) {
			t.Errorf("reason %q lacks %q", te.Reason, text)
		}
	}
}

func segment(t *testing.T, token string, i int) map[string]any {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDataplaneToken(t *testing.T) {
	w := newWorld(t)
	w.key(mesh.KindSecret, "default", "dataplane-token-signing-key-default-1")
	in := DataplaneClaims{
		Mesh:     "default",
		Name:     "dp1",
		Tags:     map[string][]string{"kuma.io/service": {"web"}},
		Type:     "dataplane",
		Workload: "web",
	}
	token := must[string](t)(w.tokens.IssueDataplane(t.Context(), in, time.Hour))

	if diff := cmp.Diff(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "1"},
		segment(t, token, 0)); diff != "" {
		t.Errorf("header: %s", diff)
	}
	claims := segment(t, token, 1)
	if id, _ := claims["jti"].(string); len(id) != 36 {
		t.Errorf("jti = %v, want a UUID", claims["jti"])
	}
	delete(claims, "jti")
	start := float64(testNow.Add(-5 * time.Second).Unix())
	want := map[string]any{"Mesh": "default", "Name": "dp1",
		"Tags": map[string]any{"kuma.io/service": []any{"web"}}, "Type": "dataplane",
		"Workload": "web", "ca": []any{"aa", "bb"}, "iat": start, "nbf": start,
		"exp": float64(testNow.Add(time.Hour).Unix())}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims: %s", diff)
	}

	got := must[DataplaneClaims](t)(w.tokens.VerifyDataplane(token))
	got.ID = ""
	if diff := cmp.Diff(in, got); diff != "" {
		t.Errorf("verified claims: %s", diff)
	}
	if pins := must[[]string](t)(servercert.TokenPins(token)); !cmp.Equal(pins, []string{"aa", "bb"}) {
		t.Errorf("pins = %v", pins)
	}

	_, err := w.tokens.VerifyZone(token)
	wantCode(t, err, WrongType, "this is a dataplane token", "meridian token zone")
	_, err = w.tokens.VerifyDataplane("not.a.token")
	wantCode(t, err, Malformed)
	_, err = w.tokens.VerifyDataplane("")
	wantCode(t, err, Malformed)
	w.now = testNow.Add(time.Hour)
	_, err = w.tokens.VerifyDataplane(token)
	wantCode(t, err, Expired, "expired at 2026-05-01T13:00:00Z",
		"meridian token dataplane --mesh default --name dp1")
	w.now = testNow.Add(-6 * time.Second)
	_, err = w.tokens.VerifyDataplane(token)
	wantCode(t, err, NotYetValid, "check the clocks")
}

func TestForeignAndForged(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.key(mesh.KindGlobalSecret, "", "user-token-signing-key-1")
	other.key(mesh.KindGlobalSecret, "", "user-token-signing-key-1")
	other.key(mesh.KindGlobalSecret, "", "user-token-signing-key-2")
	byTwo := must[string](t)(other.tokens.IssueUser(t.Context(), UserClaims{Name: "eve"}, time.Hour))
	_, err := w.tokens.VerifyUser(byTwo)
	wantCode(t, err, UnknownKey, `key "2"`, "foreign")
	delete(other.secrets, mesh.Key{Kind: mesh.KindGlobalSecret, Name: "user-token-signing-key-2"})
	byOne := must[string](t)(other.tokens.IssueUser(t.Context(), UserClaims{Name: "eve"}, time.Hour))
	_, err = w.tokens.VerifyUser(byOne)
	wantCode(t, err, UnknownKey, "foreign")

	good := must[string](t)(w.tokens.IssueUser(t.Context(), UserClaims{Name: "bob"}, time.Hour))
	parts := strings.Split(good, ".")
	forged := strings.Split(byOne, ".")
	_, err = w.tokens.VerifyUser(parts[0] + "." + forged[1] + "." + parts[2])
	wantCode(t, err, UnknownKey, "foreign")

	for name, method := range map[string]jwt.SigningMethod{"none": jwt.SigningMethodNone,
		"HS256": jwt.SigningMethodHS256} {
		tok := jwt.NewWithClaims(method,
			jwt.MapClaims{"Name": "eve", "Groups": []string{AdminGroup},
				"exp": testNow.Add(time.Hour).Unix()})
		tok.Header["kid"] = "1"
		var key any = []byte("x")
		if name == "none" {
			key = jwt.UnsafeAllowNoneSignatureType
		}
		text, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.tokens.VerifyUser(text); err == nil {
			t.Errorf("a token with method %s is accepted", name)
		} else {
			wantCode(t, err, Malformed)
		}
	}
}

func TestRotationAndRevocation(t *testing.T) {
	w := newWorld(t)
	w.key(mesh.KindGlobalSecret, "", "user-token-signing-key-1")
	old := must[string](t)(w.tokens.IssueUser(t.Context(), UserClaims{Name: "a"}, time.Hour))
	w.key(mesh.KindGlobalSecret, "", "user-token-signing-key-0002")
	young := must[string](t)(w.tokens.IssueUser(t.Context(), UserClaims{Name: "b"}, time.Hour))
	if kid := segment(t, young, 0)["kid"]; kid != "2" {
		t.Errorf("kid = %v, want 2", kid)
	}
	a := must[UserClaims](t)(w.tokens.VerifyUser(old))
	b := must[UserClaims](t)(w.tokens.VerifyUser(young))

	list := mesh.Key{Kind: mesh.KindGlobalSecret, Name: "user-token-revocations"}
	for _, sep := range []string{",", ", ", " ", "\n", "\r\n"} {
		w.put(list, []byte("x"+sep+b.ID+"\n"))
		_, err := w.tokens.VerifyUser(young)
		wantCode(t, err, Revoked)
		if _, err := w.tokens.VerifyUser(old); err != nil {
			t.Errorf("separator %q: %v", sep, err)
		}
	}
	w.put(list, []byte(a.ID[:10]))
	if _, err := w.tokens.VerifyUser(old); err != nil {
		t.Errorf("a part of an id revokes: %v", err)
	}
	delete(w.secrets, mesh.Key{Kind: mesh.KindGlobalSecret, Name: "user-token-signing-key-1"})
	_, err := w.tokens.VerifyUser(old)
	wantCode(t, err, UnknownKey)
}

func TestDataplaneRevocationListsBothKinds(t *testing.T) {
	for _, kind := range []mesh.Kind{mesh.KindSecret, mesh.KindGlobalSecret} {
		w := newWorld(t)
		w.key(mesh.KindSecret, "m", "dataplane-token-signing-key-m-1")
		token := must[string](t)(w.tokens.IssueDataplane(t.Context(), DataplaneClaims{Mesh: "m"}, time.Hour))
		c := must[DataplaneClaims](t)(w.tokens.VerifyDataplane(token))
		key := mesh.Key{Kind: kind, Name: "dataplane-token-revocations-m"}
		if kind == mesh.KindSecret {
			key.Mesh = "m"
		}
		w.put(key, []byte(c.ID))
		_, err := w.tokens.VerifyDataplane(token)
		wantCode(t, err, Revoked)
	}
}

func TestZoneTokenAtFederatedZone(t *testing.T) {
	global, zone := newWorld(t), newWorld(t)
	global.key(mesh.KindGlobalSecret, "", "zone-token-signing-key-1")
	var private *mesh.Resource
	for _, r := range global.secrets {
		private = r
	}
	public := kds.PublicHalf(private)
	if public == nil {
		t.Fatal("no public half")
	}
	if public.Key.Name != "zone-token-signing-public-key-1" ||
		strings.Contains(string(secretData(public)), "PRIVATE") {
		t.Errorf("public half is %v", public)
	}
	if again := kds.PublicHalf(public); again != public {
		t.Error("a public half has a public half")
	}
	zone.secrets[public.Key] = public
	token := must[string](t)(global.tokens.IssueZone(t.Context(), ZoneClaims{
		Zone:  "east",
		Scope: []string{"ingress", "cp"},
	}, time.Hour))
	c := must[ZoneClaims](t)(zone.tokens.VerifyZone(token))
	if err := c.Allows("east", ScopeIngress); err != nil {
		t.Error(err)
	}
	wantCode(t, c.Allows("west", ScopeIngress), Mismatch, `"east"`, `"west"`)
	wantCode(t, c.Allows("east", ScopeEgress), Mismatch, "egress")
	if _, err := zone.tokens.sign(zone.view(), zoneRing(), nil, time.Hour); !errors.Is(err, ErrNoKey) {
		t.Errorf("signing with a public half: %v, want ErrNoKey", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	w := newWorld(t)
	w.key(mesh.KindSecret, "default", "dataplane-token-signing-key-default-1")
	_, noMesh := w.tokens.IssueDataplane(t.Context(), DataplaneClaims{}, time.Hour)
	_, badType := w.tokens.IssueDataplane(t.Context(), DataplaneClaims{
		Mesh: "default",
		Type: "gateway",
	}, time.Hour)
	_, zero := w.tokens.IssueDataplane(t.Context(), DataplaneClaims{Mesh: "default"}, 0)
	_, noScope := w.tokens.IssueZone(t.Context(), ZoneClaims{Zone: "z"}, time.Hour)
	_, badScope := w.tokens.IssueZone(t.Context(), ZoneClaims{Scope: []string{"cp", "x"}}, time.Hour)
	_, user := w.tokens.IssueUser(t.Context(), UserClaims{}, -time.Second)
	for _, c := range []struct {
		err    error
		fields []string
	}{
		{noMesh, []string{"mesh"}}, {badType, []string{"type"}}, {zero, []string{"validFor"}},
		{noScope, []string{"scope"}},
		{badScope, []string{"scope[1]"}}, {user, []string{"name", "validFor"}},
	} {
		var bad *mesh.ValidationError
		if !errors.As(c.err, &bad) {
			t.Errorf("error %v, want a ValidationError for %v", c.err, c.fields)
			continue
		}
		var got []string
		for _, v := range bad.Violations {
			got = append(got, v.Field)
		}
		if diff := cmp.Diff(c.fields, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAllowsDataplane(t *testing.T) {
	dp := &mesh.Resource{
		Key:    mesh.Key{Kind: mesh.KindDataplane, Mesh: "m", Name: "dp1"},
		Labels: map[string]string{mesh.LabelWorkload: "web"},
		Spec: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Inbound: []*meshv1.Dataplane_Inbound{
			{Tags: map[string]string{"kuma.io/service": "a", "v": "1"}},
			{Tags: map[string]string{"kuma.io/service": "b"}}}}},
	}
	ingress := &mesh.Resource{
		Key:  mesh.Key{Kind: mesh.KindZoneIngress, Name: "in"},
		Spec: &meshv1.ZoneIngress{},
	}
	for _, c := range []struct {
		name   string
		claims DataplaneClaims
		on     *mesh.Resource
		typ    string
		code   Code // empty: allowed
	}{
		{"unbound", DataplaneClaims{Mesh: "m"}, dp, "", ""},
		{"all bound", DataplaneClaims{
			Mesh:     "m",
			Name:     "dp1",
			Type:     "dataplane",
			Workload: "web",
			Tags:     map[string][]string{"v": {"1"}},
		}, dp, "dataplane", ""},
		{"dataplane uses a subset", DataplaneClaims{
			Mesh: "m",
			Tags: map[string][]string{"kuma.io/service": {"a", "b", "c"}},
		}, dp, "", ""},
		{"other mesh", DataplaneClaims{Mesh: "n"}, dp, "", Mismatch},
		{"other name", DataplaneClaims{Mesh: "m", Name: "dp2"}, dp, "", Mismatch},
		{"one value not listed", DataplaneClaims{
			Mesh: "m",
			Tags: map[string][]string{"kuma.io/service": {"a"}},
		}, dp, "", Mismatch},
		{"tag missing", DataplaneClaims{Mesh: "m", Tags: map[string][]string{"w": {"1"}}}, dp, "", Mismatch},
		{"other type", DataplaneClaims{Mesh: "m", Type: "ingress"}, dp, "dataplane", Mismatch},
		{"other workload", DataplaneClaims{Mesh: "m", Workload: "api"}, dp, "", Mismatch},
		{"zone proxy", DataplaneClaims{Mesh: "m", Type: "ingress"}, ingress, "ingress", WrongType},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.claims.Allows(c.on, c.typ)
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantCode(t, err, c.code)
		})
	}
}

func TestRingIsKeptWhileSecretsStand(t *testing.T) {
	w := newWorld(t)
	w.key(mesh.KindGlobalSecret, "", "user-token-signing-key-1")
	a := w.tokens.ring(w.view(), userRing())
	w.put(mesh.Key{Kind: mesh.KindGlobalSecret, Name: "other"}, []byte("x"))
	if w.tokens.ring(w.view(), userRing()) != a {
		t.Error("parsed again although the keys are the same")
	}
	w.key(mesh.KindGlobalSecret, "", "user-token-signing-key-1")
	if w.tokens.ring(w.view(), userRing()) == a {
		t.Error("a replaced key is still in use")
	}
	for _, name := range []string{"m1", "m2", "m3"} {
		w.tokens.ring(w.view(), dataplaneRing(name))
	}
	if len(w.tokens.rings) != 1 {
		t.Errorf("%d rings kept, want 1: names in strangers' tokens must cost no memory", len(w.tokens.rings))
	}
}

func BenchmarkVerifyUser(b *testing.B) {
	w := &world{secrets: map[mesh.Key]*mesh.Resource{}, now: testNow}
	w.tokens = New(Config{View: w.view, Now: func() time.Time { return testNow }})
	w.key(mesh.KindGlobalSecret, "", "user-token-signing-key-1")
	v := w.view()
	w.tokens.conf.View = func() replica.View { return v }
	token, err := w.tokens.IssueUser(b.Context(), UserClaims{Name: "a"}, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := w.tokens.VerifyUser(token); err != nil {
			b.Fatal(err)
		}
	}
}
