// Package hint holds the sentences that tell a user which command or flag mends an error.
//
// Most errors reach their user over a connection, as text: a zone that global rejects prints what global
// says. So the side that finds the mistake must word the remedy, though it is neither the command line
// nor on the user's machine. The names of verbs and flags are here, and not in the packages that find
// mistakes; a test of cmd/meridian runs every command that is named through the parser of the program.
//
// Values may come from unverified tokens: one that would not be a plain word on a command line is left
// out.
package hint

import "strings"

// DataplaneToken is how to issue a token for a proxy; empty values are left out.
func DataplaneToken(mesh, name string) string {
	return issue("", "dataplane", arg("mesh", mesh)+arg("name", name))
}

// ZoneToken is how to issue a token for a zone; empty values are left out.
func ZoneToken(zone string, scopes ...string) string {
	args := arg("zone", zone)
	for _, s := range scopes {
		args += arg("scope", s)
	}
	return issue(" at global", "zone", args)
}

// UserToken is how to issue a token for a user; an empty name is left out.
func UserToken(name string) string {
	return issue("", "user", arg("name", name)+" --valid-for 24h")
}

func issue(where, kind, args string) string {
	return "issue a new one" + where + " with 'meridian token " + kind + args + "'"
}

func arg(flag, value string) string {
	if value == "" || strings.ContainsAny(value, " '\"\\\n\t") || len(value) > 253 {
		return ""
	}
	return " --" + flag + " " + value
}

// GiveZoneToken is how a zone is given its token.
const GiveZoneToken = "set it with --token-file"

// ServerCA is how a client trusts a control plane that its token does not know.
const ServerCA = "use a token that this control plane issued, or set its CA with --ca-file"

// ZoneName is what to do with a control plane that says it is zone claimed and has a token of zone of.
func ZoneName(claimed, of string) string {
	return "start it with" + arg("name", of) + " or give it a token of zone " + claimed
}

// OneZone is how to choose, of several zones that have what is named, the one that is meant.
const OneZone = "name one with --zone ZONE, over REST with ?zone=ZONE"

// Force is how to make a change that would leave something without an instance.
const Force = "with --force, over REST with ?force=true"

// CarryOver is how what a zone owned while it was alone comes to the global that it joins.
const CarryOver = "Carry them over with " +
	"'meridian export --address ZONE | meridian apply --address GLOBAL -f -', or write global's into the " +
	"zone while it has no --global; it joins by itself then"

// AcceptZone is how to say that a zone is right to have another store.
func AcceptZone(zone string) string {
	if arg("name", zone) == "" {
		zone = "NAME"
	}
	return "'meridian zone accept " + zone + "'"
}

// Authenticate is how a caller without rights gets them.
const Authenticate = "send a user token in the header 'Authorization: Bearer TOKEN' (an administrator " +
	"issues one with 'meridian token user'), or call on the control plane's machine as root or as its " +
	"user, by the socket api.sock in its data directory, which the command line finds by itself"
